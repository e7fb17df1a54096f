"""One training entry for every method, on Lightning: resumes by itself, keeps to a budget, runs under torchrun.

A run folder holds `METHOD.safetensors` (averaged weights, rewritten at every checkpoint), `objects/` (the meshes),
`checkpoints/METHOD/last.ckpt` (everything needed to go on) and `logs/METHOD/from_STEP/metrics.csv`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from . import weights
from .data import bop, dataset, synth
from .files import atomic_write, write_json
from .methods import coordinates, detector, probabilistic, refiner
from .types import Camera, ObjectModel


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to learn."""

    minutes: float | None = None  # wall-clock budget of the whole run, pauses not counted; None: until `steps`
    steps: int = 40_000  # most optimiser steps
    batch_size: int = 16  # samples per step and process
    lr: float | None = None  # peak learning rate of AdamW, the backbone gets half; None: what suits the method
    weight_decay: float = 1e-2
    warmup: float = 0.02  # share of the budget in which the learning rate rises
    clip: float = 5.0  # largest gradient norm
    ema: float = 0.999  # decay of the averaged weights, which are the ones that are saved
    workers: int = 1  # processes that draw samples
    seed: int = 0
    checkpoint_minutes: float = 2.0  # between checkpoints


class Method(NamedTuple):
    """What the training loop needs to know of a method."""

    presets: dict[str, Callable[[tuple[int, ...]], Any]]  # name -> Config of these object ids; the first is the default
    model: Callable[[Any, Mapping[int, ObjectModel]], nn.Module]
    samples: Callable[[Any, dataset.Source, int, int], Dataset]  # config, source, length, seed -> drawn on the fly
    pictures: Callable[[Any, dataset.Source, Path, int, int], Dataset]  # config, source, split, length, seed -> read
    collate: Callable[..., Any] | None
    inputs: tuple[str, ...]  # batch keys that the model's forward takes
    loss: Callable[[Any, Any, Any], dict[str, Tensor]]  # model, output, batch -> named scalars; their sum is minimised
    lr: Callable[[Any], float] = lambda config: 1e-3  # peak learning rate for a Config


def _crops(c: Any, source: dataset.Source, length: int, seed: int) -> Dataset:
    return dataset.CropSamples(source, c.input_size, c.output_size, c.crop_scale, c.greyed_share, length, seed)


def _bop_crops(c: Any, source: dataset.Source, split: Path, length: int, seed: int) -> Dataset:
    return dataset.BopCropSamples(source.models, split, c.input_size, c.output_size, c.crop_scale, c.greyed_share, length, seed)


def _windows(c: Any, source: dataset.Source, length: int, seed: int) -> Dataset:
    windows = dataset.CropSamples(source, c.window_size, c.window_size // 2, c.window_scale, 0.0, length, seed)
    return dataset.StartSamples(windows, source.models, c.noise_deg, c.noise_shift, seed)


def _bop_windows(c: Any, source: dataset.Source, split: Path, length: int, seed: int) -> Dataset:
    side = c.window_size
    windows = dataset.BopCropSamples(source.models, split, side, side // 2, c.window_scale, 0.0, length, seed)
    return dataset.StartSamples(windows, source.models, c.noise_deg, c.noise_shift, seed)


METHODS: dict[str, Method] = {
    "coordinates": Method(
        presets={"unet": lambda ids: coordinates.Config(obj_ids=ids), "pix2pose": coordinates.pix2pose},
        model=lambda config, models: coordinates.Model(config, models),
        samples=_crops,
        pictures=_bop_crops,
        collate=None,
        inputs=("image", "label"),
        loss=coordinates.loss,
    ),
    "probabilistic": Method(
        presets={
            "unet": lambda ids: probabilistic.Config(obj_ids=ids),
            "basic": probabilistic.basic,
            "reg": probabilistic.reg,
            "coord-init": probabilistic.published,
            "no-model": probabilistic.no_model,
            "small": probabilistic.small,
            "large": probabilistic.large,
        },
        model=lambda config, models: probabilistic.Model(config, models),
        samples=_crops,
        pictures=_bop_crops,
        collate=None,
        inputs=("image", "label"),
        loss=probabilistic.loss,
    ),
    "refiner": Method(
        presets={"medium": lambda ids: refiner.Config(obj_ids=ids), "small": refiner.small, "published": refiner.published},
        model=lambda config, models: refiner.Model(config, models),
        samples=_windows,
        pictures=_bop_windows,
        collate=None,
        inputs=("image", "label", "K", "start"),
        loss=refiner.loss,
        lr=lambda c: 5e-4,
    ),
    "detector": Method(
        presets={"small": detector.small, "maskrcnn": detector.maskrcnn},
        model=lambda config, models: detector.Model(config),
        samples=lambda c, source, length, seed: dataset.SceneSamples(source, c.size, length, seed),
        pictures=lambda c, source, split, length, seed: dataset.BopSceneSamples(source.models, split, c.size, length, seed),
        collate=dataset.collate_scenes,
        inputs=("image",),
        loss=detector.loss,
        lr=lambda c: 1e-4 if c.two_stage else 1e-3,
    ),
}


class _Learner(L.LightningModule):
    """The optimisation step, shared by all methods."""

    def __init__(self, method: Method, model: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method, self.model, self.config = method, model, config
        self.lr = config.lr or method.lr(model.config)
        self.spent = 0.0  # seconds of training in this and earlier processes
        self._since = time.monotonic()
        self._bad = 0  # steps in a row whose gradient was not finite

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "rest": [], "discriminator": []}
        for name, parameter in self.model.named_parameters():
            key = "discriminator" if name.startswith("discriminator") else "backbone" if "backbone" in name else "rest"
            if parameter.requires_grad:
                groups[key].append(parameter)
        c = self.config
        main = [{"params": groups["rest"], "scale": 1.0}, {"params": groups["backbone"], "scale": 0.5}]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([g for g in main if g["params"]], lr=self.lr, weight_decay=c.weight_decay)
        ]
        if groups["discriminator"]:
            optimizers.append(torch.optim.AdamW(groups["discriminator"], lr=2e-4, betas=(0.5, 0.999)))
        return optimizers

    @property
    def steps(self) -> int:
        """Batches learned from. Lightning counts the steps of every optimiser."""
        return self.global_step // max(len(self.trainer.optimizers), 1)

    def progress(self) -> float:
        """Share of the budget that is used up, in [0, 1]; processes with clocks of their own take the first one's."""
        by_steps = self.steps / self.config.steps
        if self.config.minutes is None:
            return min(by_steps, 1.0)
        seconds = self.spent + time.monotonic() - self._since
        share = min(max(by_steps, seconds / (60 * self.config.minutes)), 1.0)
        return self.trainer.strategy.broadcast(share) if self.trainer.world_size > 1 else share

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimizers = self.optimizers()
        optimizer, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        done = self.progress()
        rate = min(done / self.config.warmup, 1.0) if done < self.config.warmup else 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = self.lr * max(rate, 1e-3) * group["scale"]
        if batch["image"].dim() == 4:
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        output = self.model(*(batch[key] for key in self.method.inputs))
        losses = self.method.loss(self.model, output, batch | {"progress": torch.tensor(done)})  # for losses that warm up
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        self.manual_backward(total)
        learning = [p for group in optimizer.param_groups for p in group["params"]]  # not the discriminator's old gradients
        if bool(torch.isfinite(nn.utils.clip_grad_norm_(learning, self.config.clip))):
            optimizer.step()
            self._bad = 0
            if others:
                self._step_discriminator(others[0], output, batch)
        else:
            raise_after = 20
            self._bad += 1
            if self._bad >= raise_after:
                raise FloatingPointError(
                    f"the gradient was not finite {raise_after} times in a row; lower the learning rate (--lr)"
                )
        self.log_dict({k: v.detach() for k, v in losses.items()} | {"lr": optimizer.param_groups[0]["lr"]})
        self.log("loss", total.detach(), prog_bar=True)
        self.log("done_percent", 100 * done, prog_bar=True)

    def _step_discriminator(self, optimizer: Any, output: Any, batch: dict[str, Any]) -> None:
        optimizer.zero_grad()
        value = coordinates.discriminator_loss(self.model, output, batch)  # type: ignore[arg-type]
        self.manual_backward(value)
        optimizer.step()
        self.log("discriminator", value.detach())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.progress() >= 1:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spent"] = self.spent + time.monotonic() - self._since

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.spent = checkpoint["spent"]

    def on_train_start(self) -> None:
        self._since = time.monotonic()


class _Checkpoints(L.Callback):
    """Every few minutes a checkpoint to go on from, and beside it the averaged weights as a file to predict with."""

    def __init__(self, path: Path, minutes: float, export: Callable[[Mapping[str, Tensor]], None]) -> None:
        self.path, self.seconds, self.export = path, 60 * minutes, export
        self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self.saved > self.seconds
        if trainer.world_size > 1:
            due = trainer.strategy.broadcast(due)
        if due:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.path)
            self.export(_averaged(trainer))
        self.saved = time.monotonic()


def _averaged(trainer: L.Trainer) -> dict[str, Tensor]:
    average = next(c for c in trainer.callbacks if isinstance(c, lightning_callbacks.WeightAveraging))  # type: ignore[attr-defined]
    model = average._average_model.module if average._average_model is not None else trainer.lightning_module
    return model.model.state_dict()  # type: ignore[union-attr, operator]


def _ema(decay: float) -> L.Callback:
    def blend(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        keep = min(decay, (1 + float(count)) / (10 + float(count)))  # short memory at the start
        return torch.lerp(current.to(average.dtype), average, keep) if average.is_floating_point() else current

    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else None
    return lightning_callbacks.WeightAveraging(device=device, use_buffers=True, avg_fn=blend)


def read_objects(data: Path, obj_ids: tuple[int, ...] = (), faces: int | None = None) -> dict[int, ObjectModel]:
    """The CAD models of a BOP folder (or of its models folder), thinned to at most `faces` triangles each."""
    from .mesh import simplified

    folder = data / "models" if (data / "models").is_dir() else data
    models = bop.read_models(folder, obj_ids or None)
    return {i: simplified(m, faces) if faces and len(m.faces) > faces else m for i, m in models.items()}


def read_data_camera(data: Path) -> Camera:
    """The camera of a BOP folder: camera.json, else 640x480 with 60 degrees of view."""
    from .images import read_camera

    for path in (data / "camera.json", data.parent / "camera.json"):
        if path.is_file():
            return read_camera(path)
    return synth.default_camera()


def preset(method: str, name: str | None = None) -> Callable[[tuple[int, ...]], Any]:
    """The function that makes a method's Config from object ids; None: its default.

    Raises:
        ValueError: for an unknown method or preset.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    presets = METHODS[method].presets
    if name is not None and name not in presets:
        raise ValueError(f"{method} has no preset {name!r}; choose one of {', '.join(presets)}")
    return presets[name] if name is not None else next(iter(presets.values()))


def scene_config(
    data: str | Path,
    obj_ids: tuple[int, ...] = (),
    *,
    upright: bool = False,
    elevation_deg: tuple[float, float] = (-10.0, 90.0),
    distance: tuple[float, float] | None = None,
) -> synth.SceneConfig:
    """Where objects may be; the distances, in metres, are fitted to objects and camera unless given."""
    data = Path(data)
    models = read_objects(data, obj_ids).values() if distance is None else ()
    camera = read_data_camera(data)
    return synth.scene_config(list(models), camera, upright=upright, elevation_deg=elevation_deg, distance=distance)


def train(
    method: str,
    data: str | Path,
    out: str | Path,
    *,
    obj_ids: tuple[int, ...] = (),
    split: str | None = None,
    init: str | Path | None = None,
    backgrounds: str | Path | None = None,
    scene: synth.SceneConfig | None = None,
    config: TrainConfig | None = None,
    method_config: Any = None,
    faces: int = 12_000,
    progress_bar: bool = True,
) -> Path:
    """Train a method on CAD models; goes on where an earlier, killed run in `out` stopped.

    Args:
        method: "coordinates", "probabilistic" or "detector".
        data: a BOP folder with models/ (and camera.json), or a models folder.
        out: run folder; created.
        obj_ids: objects to learn; () for all. The others of the folder stand among the distractors.
        split: learn from the pictures of this split of `data`, e.g. "train_pbr"; None: draw scenes on the fly.
        init: weights file of an earlier run, of other objects perhaps, to start from instead of ImageNet alone.
        backgrounds: folder of photos to put behind the objects; None: procedural ones.
        scene: where objects may be; None: default with distances that fit the objects and the camera.
        config: budget and optimiser.
        method_config: the method's Config; None: its default for these objects.
        faces: meshes with more triangles are thinned to this for training; poses refer to the original.
        progress_bar: show one.

    Returns:
        the weights file, out/METHOD.safetensors.

    Raises:
        ValueError: unknown method, or `out` holds a run of another method configuration.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    entry, data, out, config = METHODS[method], Path(data), Path(out), config or TrainConfig()
    everything = read_objects(data, (), faces)
    unknown = sorted(set(obj_ids) - set(everything))
    if unknown:
        raise ValueError(f"no CAD model for object(s) {unknown} in {data}; it holds {sorted(everything)}")
    models = {i: m for i, m in everything.items() if not obj_ids or i in obj_ids}
    others = [replace(m, obj_id=-1) for i, m in everything.items() if i not in models]
    ids = tuple(sorted(models))
    method_config = method_config or preset(method)(ids)
    camera = read_data_camera(data)
    scene = scene or scene_config(data, obj_ids)
    source = dataset.Source(models, camera, synth.read_backgrounds(backgrounds), scene, others)
    last = _last_checkpoint(out, method)
    L.seed_everything(config.seed, verbose=False)
    model = entry.model(method_config, models)
    if init is not None and last is None:
        _start_from(model, Path(init))
    model = model.to(memory_format=torch.channels_last)
    learner = _Learner(entry, model, config)
    file = out / f"{method}.safetensors"
    notes = {"scene": json.dumps(asdict(scene)), "train": json.dumps(asdict(config)), "device": _device_name()}

    def export(state: Mapping[str, Tensor]) -> None:
        spent = learner.spent + time.monotonic() - learner._since
        measured = {"steps": str(learner.steps), "minutes": f"{spent / 60:.1f}"}
        kept = {k: v for k, v in state.items() if not k.startswith("discriminator")}
        weights.save(file, kept, method=method, config=method_config, labels=ids, notes=notes | measured, half=True)

    start = 0
    if last is not None:
        start = int(torch.load(last, weights_only=True, map_location="cpu", mmap=True)["global_step"])
    takes_turns = any(name.startswith("discriminator") for name, _ in model.named_parameters())
    trainer = _trainer(out, method, config, export, progress_bar, start, takes_turns)
    if trainer.is_global_zero:
        _remember(out / f"{method}.json", method_config, data)
        _copy_objects(data, out, ids)
    per_process = config.seed * 1_000_003 + trainer.global_rank * 7919 + start
    length = config.batch_size * (config.steps + 1)
    if split is None:
        samples = entry.samples(method_config, source, length, per_process)
    else:
        samples = entry.pictures(method_config, source, data / split, length, per_process)
    loader = DataLoader(
        samples, config.batch_size, num_workers=config.workers, collate_fn=entry.collate, drop_last=True,
        persistent_workers=config.workers > 0, prefetch_factor=4 if config.workers else None, worker_init_fn=dataset.one_thread,
    )  # fmt: skip
    trainer.fit(learner, loader, ckpt_path=str(last) if last else None, weights_only=True)
    return file


def _start_from(model: nn.Module, path: Path) -> None:
    """Copy the parameters of another run that have the same name and shape; what belongs to single objects starts anew.

    Where every object has a row of its own (the coordinate network), objects known to both runs keep theirs. Networks of
    different methods share the backbone and what else has the same name.
    """
    own = dict(model.named_parameters())
    checkpoint = weights.read(path)
    stored = checkpoint.state
    there, here = _root(stored), _root(own)
    if (
        here is not None and there is not None and here != there
    ):  # what one network calls net.stages, another calls features.stages
        _start_root_from(model, checkpoint, there, here)
        return
    shared = {k: v for k, v in stored.items() if k in own and v.shape == own[k].shape and not k.startswith(_PER_OBJECT)}
    norms = {k: v for k, v in stored.items() if k.rsplit(".", 1)[-1] in ("running_mean", "running_var")}
    state = model.state_dict()
    fitting = shared | {k: v for k, v in norms.items() if k in state and v.shape == state[k].shape}
    if len(shared) < len(own) / 2:
        raise ValueError(
            f"only {len(shared)} of {len(own)} parameters in {path} fit this configuration; is it the same network?"
        )
    ids = list(model.config.obj_ids)  # type: ignore[union-attr, arg-type]
    both = [i for i in ids if i in checkpoint.labels]
    for name in ("net.which.weight", "net.head.weight", "net.head.bias", "weight_head.weight", "weight_head.bias"):
        rows = (name in own and name in stored) and (len(own[name]), len(stored[name])) == (len(ids), len(checkpoint.labels))
        # where one network says more than the other, they begin with the same
        if both and rows and own[name].shape[2:] == stored[name].shape[2:]:
            shared_outputs = min(own[name].shape[1], stored[name].shape[1])
            same = stored[name][[checkpoint.labels.index(i) for i in both], :shared_outputs]
            fitting[name] = state[name].clone()
            fitting[name][[ids.index(i) for i in both], :shared_outputs] = same
    model.load_state_dict(fitting, strict=False)


def _root(names: Iterable[str]) -> str | None:
    """What stands before "backbone." in the names of parameters."""
    return next((name[: name.index("backbone.")] for name in names if "backbone." in name), None)


def _start_root_from(model: nn.Module, checkpoint: weights.Checkpoint, there: str, here: str) -> None:
    """Copy the backbone and what follows it under the same name and shape from a network of another method."""
    state = model.state_dict()
    stored = {here + k.removeprefix(there): v for k, v in checkpoint.state.items() if k.startswith(there)}
    if checkpoint.labels != tuple(model.config.obj_ids):  # type: ignore[union-attr, arg-type]
        stored = {k: v for k, v in stored.items() if not k.startswith(here + "which.")}
    fitting = {k: v for k, v in stored.items() if k in state and v.shape == state[k].shape}
    backbone = [k for k in state if k.startswith(here + "backbone.")]
    if not all(k in fitting for k in backbone):
        raise ValueError(f"the backbone of {checkpoint.path} is another one than {model.config.backbone!r}")  # type: ignore[union-attr]
    model.load_state_dict(fitting, strict=False)


_PER_OBJECT = (
    "net.which.", "net.head.", "weight_head.", "net.heat.", "net.distances.", "net.semantic.", "discriminator.",
    "net.net.roi_heads.box_predictor.", "net.net.roi_heads.mask_predictor.mask_fcn_logits.",
)  # fmt: skip


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _trainer(
    out: Path,
    method: str,
    config: TrainConfig,
    export: Callable[..., None],
    progress_bar: bool,
    start: int,
    takes_turns: bool,  # generator and discriminator learn in turn, so a backward pass leaves some parameters out
) -> L.Trainer:
    env = os.environ  # torchrun sets the first name of each pair, SLURM the second
    world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", "1")))
    local = int(env.get("LOCAL_WORLD_SIZE", env.get("SLURM_NTASKS_PER_NODE", str(world))))
    cuda = torch.cuda.is_available()
    logs = out / "logs"
    return L.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=local if world > 1 else 1,
        num_nodes=max(world // local, 1),
        strategy="auto" if world == 1 else "ddp_find_unused_parameters_true" if takes_turns else "ddp",
        precision="bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true",
        max_steps=-1,
        max_epochs=-1,  # samples have no end; a finished run that is given more goes on
        callbacks=[
            _ema(config.ema),
            _Checkpoints(out / "checkpoints" / method / "last.ckpt", config.checkpoint_minutes, export),
            *([lightning_callbacks.TQDMProgressBar(refresh_rate=1 if sys.stderr.isatty() else 50)] if progress_bar else []),
        ],
        enable_checkpointing=False,
        logger=[
            CSVLogger(logs, name=method, version=f"from_{start}"),
            TensorBoardLogger(logs, name=f"{method}_tb", version=""),
        ],
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
        log_every_n_steps=20,
        use_distributed_sampler=False,
    )


def _last_checkpoint(out: Path, method: str) -> Path | None:
    last = out / "checkpoints" / method / "last.ckpt"
    if not last.is_file():
        return None
    try:
        torch.load(last, weights_only=True, map_location="meta", mmap=True)
    except Exception as error:
        raise ValueError(f"{last} cannot be read ({error}); delete it to start again, or restore a copy") from error
    return last


def _copy_objects(data: Path, out: Path, ids: tuple[int, ...]) -> None:
    """Keep the meshes beside the weights, so that a run folder is all that prediction needs.

    Raises:
        ValueError: the run was started with other meshes or symmetries.
    """
    source = data / "models" if (data / "models").is_dir() else data
    target = out / "objects"
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        number = path.stem.removeprefix("obj_")
        if not path.is_file() or (number.isdigit() and int(number) not in ids):
            continue
        kept = target / path.name
        if kept.exists() and kept.read_bytes() != path.read_bytes():
            raise ValueError(f"{kept} differs from {path}: {out} was started with other objects; choose another --out")
        if not kept.exists():
            with atomic_write(kept) as temporary:
                shutil.copyfile(path, temporary)


def _remember(path: Path, method_config: Any, data: Path) -> None:
    if path.is_file() and _remembered(path, type(method_config)) != method_config:
        raise ValueError(f"{path} belongs to a run with another configuration; choose another --out or delete {path.parent}")
    write_json(path, {"config": asdict(method_config), "data": str(data)})


def _remembered(path: Path, config_class: type) -> Any:
    """The configuration a run was started with; what it does not name, as its version did not know it, is the default."""
    return weights.build_config(config_class, json.loads(path.read_text())["config"], str(path))
