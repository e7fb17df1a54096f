"""`monopose fit-identity`: a network learns correspondences from nothing but poses, through the pose distribution as a layer.

It reads a pose and shall give back the same pose, but may only speak in 2D-3D correspondences: 64 points, pixels and weights,
of which PnP makes a pose again. Nobody tells it where the points are. That it succeeds shows that the layer's gradients are
right; how sure it is of the result, that the weights have learned their scale.

Source: the demonstration of Chen et al., EPro-PnP, 2022 (fit_identity). Unlike there, what is tested at the end is a running
average of the weights: at its constant learning rate the last weights tremble.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import pnp, viz
from ..command import save_picture
from ..geometry import rotation, se3
from ..io.bars import Bar
from ..io.files import atomic_write, sole_writer, write_json

ROBUST = pnp.AdaptiveHuber(0.5)
Z_MIN = 0.1  # metres, as in the original
FAR = 1000.0  # times the distance of the best pose: telling far poses apart teaches how far away objects are
PROPOSALS = 32  # starts tried for further minima: the error of the whole run is that of 64, a step takes a fifth less


@dataclass(frozen=True)
class Config:
    """The setting of the original, and `average`. A step is one batch."""

    points: int = 64
    hidden: int = 1024  # units of the one hidden layer
    poses: int = 65_536  # to learn from, drawn once
    noise: float = 0.01  # metres, and units of a quaternion: between what goes in and what shall come out
    test_poses: int = 1024
    epochs: int = 10
    batch_size: int = 256
    lr: float = 1e-4
    scale_lr: float = 1e-2  # of the weights' common scale
    samples: int = 512  # of each posterior
    derivative: float = 0.1  # factor of the losses of the best pose
    momentum: float = 0.1  # of the running mean of the scale that the Monte Carlo loss is divided by
    average: float = 0.98  # decay per step of the averaged weights, which are those that are tested; 0 tests the last ones
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(self.poses / self.batch_size)


@dataclass(frozen=True)
class FitIdentityReport:
    """How well the poses come back."""

    steps: int  # done in all
    seconds: float  # of this run's training
    first_loss: float  # mean of the first and of the last 16 steps known, Monte Carlo and derivative together
    last_loss: float
    translation: float  # mean over the test poses, metres, with the averaged weights
    rotation: float  # mean, radians
    converged: float  # share of the test poses
    last_translation: float  # metres, with the last weights instead
    last_rotation: float  # radians
    seed: int
    pictures: list[str]

    def text(self) -> str:
        pace = f", {self.seconds / 60:.1f} minutes" if self.seconds else ""
        return "\n".join(
            [
                f"steps        {self.steps}{pace}, seed {self.seed}",
                f"loss         {self.first_loss:.2f} -> {self.last_loss:.2f}",
                f"translation  {self.translation:.4f} m     mean error; {100 * self.converged:.1f} % of test poses converged",
                f"rotation     {self.rotation:.4f} rad   ({math.degrees(self.rotation):.2f} degrees)",
                f"not averaged {self.last_translation:.4f} m, {self.last_rotation:.4f} rad with the last weights",
                *(f"posterior    {picture}" for picture in self.pictures),
            ]
        )


class Model(nn.Module):
    """A pose as seven numbers in, correspondences out."""

    def __init__(self, points: int = 64, hidden: int = 1024) -> None:
        super().__init__()
        self.points = points
        self.net = nn.Sequential(nn.Linear(7, hidden), nn.LeakyReLU(), nn.Linear(hidden, points * 7))
        self.log_scale = nn.Parameter(torch.zeros(2))

    def forward(self, seven: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 7), translation and quaternion wxyz -> points3d (B, N, 3), points2d (B, N, 2), weights (B, N, 2)."""
        points3d, points2d, logits = self.net(seven).unflatten(-1, (self.points, 7)).split([3, 2, 2], -1)
        return points3d, points2d, logits.softmax(-2) * self.log_scale.exp()


def random_poses(n: int, generator: torch.Generator) -> Tensor:
    """Five metres away, give or take one, turned in any way: (n, 7), translation and quaternion wxyz."""
    t = torch.randn(n, 3, generator=generator) + torch.tensor([0.0, 0.0, 5.0])
    return torch.cat([t, nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1)], -1)


def matrices(seven: Tensor) -> Tensor:
    """(..., 7), translation and quaternion wxyz of any length -> cam_from_obj (..., 4, 4)."""
    return se3.from_rt(rotation.matrix_from_quat_wxyz(seven[..., 3:]), seven[..., :3])


def losses(
    model: Model, seven: Tensor, truth: Tensor, norm: Tensor, config: Config, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """What a batch loses.

    Args:
        seven: what the model reads, (B, 7).
        truth: cam_from_obj, (B, 4, 4), metres.
        norm: what the Monte Carlo loss is divided by, ().
        generator: of the samples.

    Returns:
        "monte_carlo", "translation" and "rotation", each (), already weighted: their sum is what to minimise.
    """
    points3d, points2d, weights = model(seven)
    K = torch.eye(3).to(points3d)
    posterior = pnp.sample_posterior(
        points3d, points2d, K, weights, init=truth, robust=ROBUST, z_min=Z_MIN, samples=config.samples, generator=generator,
        proposals=PROPOSALS, far=FAR,
    )  # fmt: skip
    batch = len(seven)
    stepped = pnp.one_step(posterior.prepared.problems, posterior.mode.reshape(batch, 4, 4))
    translation, turn = pnp.derivative_loss(stepped, truth)
    return {
        "monte_carlo": pnp.monte_carlo_loss(posterior, truth).mean() / norm,
        "translation": config.derivative * translation.mean(),
        "rotation": config.derivative * turn.mean(),
    }


def run(
    out: str | Path = "out/fit_identity",
    steps: int | None = None,
    config: Config | None = None,
    device: str | torch.device | None = None,
    pictures: int = 4,
    checkpoint_seconds: float = 60.0,
    progress_bar: bool = True,
) -> FitIdentityReport:
    """Learn, or go on where an earlier run in the same folder stopped; then test and draw.

    Args:
        out: folder for `last.ckpt`, `report.json` and the pictures.
        steps: stop after this many in all; None: after all epochs. A later run goes on from there.
        config: the setting; a folder keeps the one it was begun with.
        device: where to compute; None is the CPU. (At this size a GPU is not needed.)
        pictures: of how many test poses the posterior is drawn.
        checkpoint_seconds: between two checkpoints; one more is written when the run ends or is interrupted.
        progress_bar: show one on the terminal.

    Raises:
        ValueError: the folder was begun with another setting.
    """
    config, out, device = config or Config(), Path(out), torch.device(device or "cpu")
    steps = config.steps if steps is None else min(steps, config.steps)
    generator = torch.Generator().manual_seed(config.seed)
    model = _new_model(config, generator).to(device)
    averaged = copy.deepcopy(model)
    groups: list[dict[str, Any]] = [{"params": model.net.parameters()}, {"params": [model.log_scale], "lr": config.scale_lr}]
    optimizer = torch.optim.Adam(groups, lr=config.lr)
    seen = random_poses(config.poses, generator)
    truth = matrices(seen + config.noise * torch.randn(seen.shape, generator=generator))
    tests = random_poses(config.test_poses, generator)
    with sole_writer(out, "fit-identity"):
        norm, done, history = torch.ones((), device=device), 0, []
        if (file := out / "last.ckpt").is_file():
            state = torch.load(file, map_location=device, weights_only=True)
            _same_setting(file, state["config"], config)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            averaged.load_state_dict(state["averaged"])
            norm, done, history = state["norm"], state["step"], state["history"]

        def save() -> None:
            state = {
                "config": asdict(config), "model": model.state_dict(), "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(), "norm": norm, "step": done, "history": history,
            }  # fmt: skip
            with atomic_write(file) as temporary:
                torch.save(state, temporary)

        started = saved = time.monotonic()
        first = done
        batches = math.ceil(config.poses / config.batch_size)
        try:
            with Bar("steps", steps, done, progress_bar and done < steps) as bar:
                while done < steps:
                    epoch, k = divmod(done, batches)
                    order = torch.randperm(config.poses, generator=_seeded(config.seed, 0, epoch))
                    mine = order[k * config.batch_size : (k + 1) * config.batch_size]
                    scale = model.log_scale.detach().exp().mean()
                    norm = (1 - config.momentum) * norm + config.momentum * scale
                    found = losses(
                        model, seen[mine].to(device), truth[mine].to(device), norm, config, _seeded(config.seed, 1, done)
                    )
                    total = torch.stack(list(found.values())).sum()
                    optimizer.zero_grad()
                    total.backward()
                    optimizer.step()
                    done += 1
                    _follow(averaged, model, min(config.average, done / (done + 9)))
                    history.append([float(v.detach()) for v in found.values()])
                    bar.advance()
                    bar.progress.update(bar.task, description=_described(history))
                    if time.monotonic() - saved > checkpoint_seconds:
                        save()
                        saved = time.monotonic()
        finally:
            if done > first:
                save()
        seconds = time.monotonic() - started if done > first else 0.0
        return _finish(averaged, model, tests.to(device), config, history, seconds, out, pictures)


def test(model: Model, seven: Tensor) -> tuple[pnp.Solution, Tensor, Tensor]:
    """Poses in, poses out: the solution, the error of translation, (B,), metres, and of rotation, (B,), radians."""
    with torch.no_grad():
        points3d, points2d, weights = model(seven)
        found = pnp.solve(points3d, points2d, torch.eye(3).to(seven), weights, robust=ROBUST, z_min=Z_MIN)
    assert isinstance(found, pnp.Solution)
    truth = matrices(seven)
    shift = (found.cam_from_obj[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1)
    return found, shift, rotation.angle_between(found.cam_from_obj[:, :3, :3], truth[:, :3, :3])


def draw(model: Model, seven: Tensor, solution: pnp.Solution | None, path: str | Path, seed: int = 0) -> Path:
    """The posterior of one pose (7,), orientation above and translation below. The Gaussian is that of the solution."""
    with torch.no_grad():
        points3d, points2d, weights = model(seven)
        posterior = pnp.sample_posterior(
            points3d, points2d, torch.eye(3).to(seven), weights, robust=ROBUST, z_min=Z_MIN, generator=_seeded(seed, 2, 0)
        )
    truth = matrices(seven)
    covariance = None if solution is None else solution.covariance
    modes = posterior.modes[torch.isfinite(posterior.mode_costs)]
    rows = [
        viz.orientation_density(posterior.samples, posterior.log_weights, modes, truth, covariance),
        viz.translation_scatter(posterior.samples, posterior.log_weights, truth, posterior.mode, covariance),
    ]
    return save_picture(Path(path), viz.contact_sheet(rows, columns=1, width=1000))


def _follow(averaged: Model, model: Model, keep: float) -> None:
    """Pull averaged weights towards the present ones, of which they take the share 1 - keep."""
    with torch.no_grad():
        for mean, now in zip(averaged.parameters(), model.parameters()):
            mean.lerp_(now, 1 - keep)


def _finish(
    model: Model,
    last: Model,
    tests: Tensor,
    config: Config,
    history: list[list[float]],
    seconds: float,
    out: Path,
    pictures: int,
) -> FitIdentityReport:
    found, shift, angle = test(model, tests)
    _, last_shift, last_angle = test(last, tests)
    drawn = []
    for k in range(min(pictures, len(tests))):
        one = pnp.Solution(*(v[k] for v in found))
        drawn.append(str(draw(model, tests[k], one, out / f"posterior_{k}.png", config.seed)))
    totals = [sum(row) for row in history] or [math.nan]
    report = FitIdentityReport(
        len(history), seconds, sum(totals[:16]) / len(totals[:16]), sum(totals[-16:]) / len(totals[-16:]),
        float(shift.mean()), float(angle.mean()), float(found.converged.float().mean()),
        float(last_shift.mean()), float(last_angle.mean()), config.seed, drawn,
    )  # fmt: skip
    write_json(out / "report.json", {**asdict(report), "config": asdict(config), "losses": history})
    return report


def _new_model(config: Config, generator: torch.Generator) -> Model:
    """A model whose random start comes from the generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return Model(config.points, config.hidden)


def _seeded(seed: int, purpose: int, index: int) -> torch.Generator:
    """The generator of one purpose and step: a run that was interrupted draws the same numbers as one that was not."""
    return torch.Generator().manual_seed((seed * 4 + purpose) * 1_000_003 + index)


def _same_setting(file: Path, before: dict[str, Any], config: Config) -> None:
    now = asdict(config)
    other = [f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]]
    if other:
        raise ValueError(f"{file} was begun with {'; '.join(other)}; go on with those or give another folder")


def _described(history: list[list[float]]) -> str:
    """The means of the last losses."""
    recent = history[-16:]
    monte_carlo, translation, turn = (sum(row[k] for row in recent) / len(recent) for k in range(3))
    return f"loss {monte_carlo + translation + turn:.2f} = Monte Carlo {monte_carlo:.2f} + t {translation:.3f} + R {turn:.3f}"
