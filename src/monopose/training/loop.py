"""The training loop that every method shares, on Lightning: resumes by itself, keeps to a budget, runs under torchrun.

A run folder holds `METHOD.safetensors` (averaged weights, rewritten at every checkpoint), `METHOD.json` (the configuration),
`checkpoints/METHOD/last.ckpt` (everything needed to go on), `progress.jsonl` (how good it was when, see `progress`) and
`logs/METHOD/from_STEP/metrics.csv`. Without the checkpoint a training goes on from the weights.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import weights
from ..io.files import atomic_write, sole_writer, write_json
from ..io.records import read_json, value
from ..synthesis.samples import one_thread
from . import progress


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to learn."""

    minutes: float | None = None  # wall-clock budget of the whole run, pauses not counted; None: until `steps`
    steps: int = 40_000  # most optimiser steps
    batch_size: int = 16  # samples per batch and process
    lr: float | None = None  # peak learning rate; None: what suits the method
    optimizer: Literal["adamw", "adam", "rmsprop"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    backbone_rate: float = 0.5  # learning rate of the backbone as a share of that of the rest
    weight_decay: float = 1e-2
    warmup: float = 0.02  # share of the budget in which the learning rate rises
    drops: tuple[float, ...] = ()  # shares of the budget at which the rate falls to a tenth; (): along a cosine
    hold: float = 1.0  # share of the budget after which the rate falls along a line to 0; 1: see `drops`
    clip: float = 5.0  # largest gradient norm
    ema: float = 0.999  # decay of the averaged weights, which are the ones that are saved
    workers: int = 1  # processes that draw samples
    accumulate: int = 1  # batches whose gradients are added up for one step
    compile: bool = False  # the network by torch.compile: minutes of start, then faster steps on GPUs
    seed: int = 0
    checkpoint_minutes: float = 2.0  # between checkpoints
    evaluate_minutes: float = 2.0  # at least between measurements on held-out samples, which take 2 % of the time at most

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("accumulate", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be {least} or more, got {getattr(self, name)}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"--lr must be above 0 and finite, got {self.lr:g}")


BatchTransform = Callable[[torch.device], Callable[[dict[str, Any]], dict[str, Any]]]
Measure = Callable[[Any], dict[str, float]]  # the network, in evaluation mode -> what was measured, see `training.progress`
EVALUATION_SHARE = 0.02  # of the time
SHORTEST = 30.0  # seconds of training below which nothing is measured


class Recipe(NamedTuple):
    """What the loop needs to know of a method."""

    inputs: tuple[str, ...]  # batch keys that the model's forward takes
    loss: Callable[[Any, Any, Any], dict[str, Tensor]]  # model, output, batch -> named scalars; their sum is minimised
    lr: Callable[[Any], float] = lambda config: 1e-3  # peak learning rate for a Config
    rate: Callable[[Any, float], float] | None = None  # Config, share of the budget -> share of that; None: `planned_rate`
    decay: Callable[[Any], float | None] = lambda config: None  # weight decay for a Config; None: that of the TrainConfig
    collate: Callable[..., Any] | None = None
    discriminator: Callable[[Any, Any, Any], Tensor] | None = None  # loss of an opponent that learns in turn
    half_on_cpu: bool = False  # bfloat16 on CPUs that multiply it, too; for networks where that was measured to be faster


def warm_cosine(done: float, warmup: float) -> float:
    """Learning rate over its peak: up in the first `warmup` of the budget, then down a cosine. Never quite 0."""
    rate = min(done / warmup, 1.0) if done < warmup else 0.5 * (1 + math.cos(math.pi * done))
    return max(rate, 1e-3)


def planned_rate(config: TrainConfig, done: float) -> float:
    """Learning rate over its peak when the share `done` of the budget is used up: a cosine, steps or a line, as configured.

    Steps begin with a tenth of the peak for as long as the warm-up lasts.
    """
    if config.hold < 1:
        return max(min(1.0, (1 - done) / (1 - config.hold)), 1e-3)
    if config.drops:
        return 0.1 ** ((done < config.warmup) + sum(done >= drop for drop in config.drops))
    return warm_cosine(done, config.warmup)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": functools.partial(torch.optim.AdamW, fused=True),
    "adam": functools.partial(torch.optim.Adam, fused=True),
    "rmsprop": functools.partial(torch.optim.RMSprop, alpha=0.99, eps=1e-8),
}


class _Learner(L.LightningModule):
    """The optimisation step, shared by all methods."""

    def __init__(
        self, recipe: Recipe, model: nn.Module, config: TrainConfig, batch_transform: BatchTransform | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recipe, self.model, self.config = recipe, model, config
        self.batch_transform = batch_transform  # device -> what makes batches there of what the workers send
        self._draw: Callable[[Any], Any] | None = None
        self.lr = config.lr or recipe.lr(model.config)
        self.spent = 0.0  # seconds of training in earlier processes
        self.first = 0  # steps before the first of Lightning's count: of a training whose checkpoint is gone
        self.open = 0  # batches of the step that has begun
        self.seen = 0  # samples that all processes have learned from
        self.losses: list[Tensor] = []  # since the last line of progress
        self._since = time.monotonic()
        self._bad = 0  # steps in a row whose gradient was not finite

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "rest": [], "discriminator": []}
        for name, parameter in self.model.named_parameters():
            key = "discriminator" if name.startswith("discriminator") else "backbone" if "backbone" in name else "rest"
            if parameter.requires_grad:
                groups[key].append(parameter)
        own = self.recipe.decay(self.model.config)
        decay = self.config.weight_decay if own is None else own
        main = [
            {"params": groups["rest"], "scale": 1.0},
            {"params": groups["backbone"], "scale": self.config.backbone_rate},
        ]
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": decay}
        if self.config.optimizer != "rmsprop":
            how["betas"] = tuple(self.config.betas)
        other = [{"params": groups["discriminator"], "scale": 1.0}]  # by the same optimiser, as Pix2Pose's code has it
        return [
            _OPTIMIZERS[self.config.optimizer]([g for g in every if g["params"]], **how)
            for every in (main, other)
            if any(g["params"] for g in every)
        ]

    @property
    def steps(self) -> int:
        """Batches learned from. Lightning counts the steps of every optimiser."""
        return self.first + self.global_step // max(len(self.trainer.optimizers), 1)

    @property
    def seconds(self) -> float:
        """Of training, in this and earlier processes."""
        return self.spent + time.monotonic() - self._since

    def give_back(self, seconds: float) -> None:
        """Time that did not go into learning."""
        self._since += max(seconds, 0.0)

    def progress(self) -> float:
        """Share of the budget that is used up, in [0, 1]; processes with clocks of their own take the first one's."""
        share = self.progress_alone()
        several = self.trainer.world_size > 1 and self.config.minutes is not None
        return self.trainer.strategy.broadcast(share) if several else share

    def progress_alone(self) -> float:
        """The same by the clock of this process."""
        by_steps = self.steps / self.config.steps
        by_time = 0.0 if self.config.minutes is None else self.seconds / (60 * self.config.minutes)
        return min(max(by_steps, by_time), 1.0)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if self._draw is not None:
            batch = self._draw(batch)
        optimizers = self.optimizers()
        optimizer, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        done = self.progress()
        rate = planned_rate(self.config, done) if self.recipe.rate is None else self.recipe.rate(self.model.config, done)
        for group in (g for each in (optimizer, *others) for g in each.param_groups):
            group["lr"] = self.lr * rate * group["scale"]
        if batch["image"].dim() == 4:
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        output = self.model(*(batch[key] for key in self.recipe.inputs))
        losses = self.recipe.loss(self.model, output, batch | {"progress": torch.tensor(done)})  # for losses that warm up
        total = torch.stack(list(losses.values())).sum()
        if self.open == 0:
            optimizer.zero_grad()
        self.open = (self.open + 1) % self.config.accumulate
        whole = self.open == 0
        alone = self.trainer.world_size == 1 or whole
        with nullcontext() if alone else self.trainer.strategy.block_backward_sync():  # type: ignore[attr-defined]
            self.manual_backward(total / self.config.accumulate)
        self.seen += self.config.batch_size * self.trainer.world_size
        if self.trainer.is_global_zero:
            self.losses.append(total.detach())
        if not whole:
            return
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
        self.log_dict({"loss": total.detach(), "done_percent": 100 * done})

    def _step_discriminator(self, optimizer: Any, output: Any, batch: dict[str, Any]) -> None:
        optimizer.zero_grad()
        assert self.recipe.discriminator is not None
        value = self.recipe.discriminator(self.model, output, batch)
        self.manual_backward(value)
        optimizer.step()
        self.log("discriminator", value.detach())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.progress() >= 1:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spent"], checkpoint["first"], checkpoint["seen"] = self.seconds, self.first, self.seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.spent, self.first = checkpoint["spent"], checkpoint.get("first", 0)

    def on_fit_start(self) -> None:
        if self.batch_transform is not None:
            self._draw = self.batch_transform(self.device)

    def on_train_start(self) -> None:
        self._since = time.monotonic()


class _WholeFiles(TorchCheckpointIO):
    """Checkpoints through our own door; Lightning's goes through a file in /tmp that a killed process leaves there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)


class _Checkpoints(L.Callback):
    """Every few minutes a checkpoint to go on from, and beside it the averaged weights as a file to predict with."""

    def __init__(self, path: Path, minutes: float, export: Callable[[Mapping[str, Tensor]], None]) -> None:
        self.path, self.seconds, self.export = path, 60 * minutes, export
        self.saved, self.learned = time.monotonic(), False

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.learned = True
        due = time.monotonic() - self.saved > self.seconds
        if trainer.world_size > 1:
            due = trainer.strategy.broadcast(due)
        if due and not module.open:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt) and self.learned:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        if trainer.is_global_zero:
            self.export(_averaged(trainer).state_dict())
        self.saved = time.monotonic()


class _Progress(L.Callback):
    """The bar, and every few minutes what the averaged weights achieve on held-out samples."""

    def __init__(self, name: str, out: Path, config: TrainConfig, measure: Measure | None, shown: bool) -> None:
        self.name, self.out, self.config, self.measure, self.shown = name, out, config, measure, shown
        self.bar: progress.Bar | None = None
        self.cost = 0.0  # seconds of the last measurement
        self.since, self.step, self.drawn = time.monotonic(), 0, 0.0  # of the last line; when the bar was drawn

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(module, _Learner)
        progress.forget_after(self.out, self.name, module.steps)
        self.bar = progress.Bar(self.name, self.shown)
        if module.steps:
            self.bar.say(f"{self.name} goes on after {module.steps:,} steps, {progress.duration(module.seconds / 60)}")
        self.since, self.step = time.monotonic(), module.steps

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        assert isinstance(module, _Learner)
        now = time.monotonic()
        if now - self.since > max(60 * self.config.evaluate_minutes, self.cost / EVALUATION_SHARE):
            self.line(trainer, module)
        elif now - self.drawn > 0.5:
            self.drawn = now
            left = _minutes_left(module)
            words = "" if left is None else f"{progress.duration(left)} left, "
            pace = self.pace(trainer, module)
            self.bar.update(module.progress_alone(), f"{words}{pace:.3g} crops/s, loss {float(module.losses[-1]):.4g}")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar is not None:
            assert isinstance(module, _Learner)
            if module.losses:
                self.line(trainer, module)
            self.bar.close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()

    def pace(self, trainer: L.Trainer, module: _Learner) -> float:
        """Samples a second since the last line."""
        samples = (module.steps - self.step) * self.config.batch_size * self.config.accumulate * trainer.world_size
        return samples / max(time.monotonic() - self.since, 1e-6)

    def line(self, trainer: L.Trainer, module: _Learner) -> None:
        assert self.bar is not None
        crops = module.steps * self.config.batch_size * self.config.accumulate * trainer.world_size
        line: dict[str, Any] = {
            "method": self.name, "step": module.steps, "crops": crops, "minutes": round(module.seconds / 60, 3),
            "crops_per_second": round(self.pace(trainer, module), 2),
        }  # fmt: skip
        losses = torch.stack(module.losses)
        if bool(torch.isfinite(losses).any()):
            line["loss"] = round(float(losses[torch.isfinite(losses)].mean()), 6)
        module.losses.clear()
        if self.measure is not None and module.seconds > min(SHORTEST, 60 * self.config.evaluate_minutes):
            started = time.monotonic()
            line |= _measured(self.measure, _averaged(trainer))
            self.cost = time.monotonic() - started
            module.give_back(self.cost - EVALUATION_SHARE * module.seconds)  # at first kernels compile, perhaps for minutes
        progress.append(self.out, line)
        self.bar.say(progress.line_text(progress.read(self.out, self.name), _minutes_left(module)))
        self.since, self.step = time.monotonic(), module.steps


def _measured(measure: Measure, model: nn.Module) -> dict[str, float]:
    """What is measured of a network; random numbers of the training stay as they are."""
    training = model.training
    model.eval()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(0)
            return measure(model)
    finally:
        model.train(training)


def _minutes_left(learner: _Learner) -> float | None:
    """Until the budget is used up; None at the start of a training by steps, when nothing is known."""
    config, share = learner.config, learner.progress_alone()
    if config.minutes is not None and learner.steps / config.steps <= share:
        by_time = max(config.minutes - learner.seconds / 60, 0.0)
        return min(by_time, (1 - share) / share * learner.seconds / 60) if share else by_time
    return (1 - share) / share * learner.seconds / 60 if share else None


def _averaged(trainer: L.Trainer) -> nn.Module:
    """The network with the averaged weights."""
    average = next(c for c in trainer.callbacks if isinstance(c, lightning_callbacks.WeightAveraging))  # type: ignore[attr-defined]
    learner = average._average_model.module if average._average_model is not None else trainer.lightning_module
    return learner.model  # type: ignore[union-attr, return-value]


def _ema(decay: float) -> L.Callback:
    def blend(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        keep = min(decay, (1 + float(count)) / (10 + float(count)))  # short memory at the start
        for average, now in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(now, 1 - keep)
            else:
                average.copy_(now)

    place = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))  # of the network, which is not there yet
    device = torch.device("cuda", place) if torch.cuda.is_available() else None
    return lightning_callbacks.WeightAveraging(device=device, use_buffers=True, multi_avg_fn=blend)


def fit(
    name: str,
    recipe: Recipe,
    method_config: Any,
    build_model: Callable[[], nn.Module],
    samples: Callable[[int, int], Dataset],
    out: Path,
    config: TrainConfig,
    *,
    data: Path,
    labels: tuple[int, ...] = (),
    notes: Mapping[str, str] | None = None,
    init_weights: Callable[[nn.Module], None] | None = None,
    on_start: Callable[[], None] | None = None,
    batch_transform: BatchTransform | None = None,
    measure: Measure | None = None,
    progress_bar: bool = True,
) -> Path:
    """Train one network; goes on where an earlier, killed run in `out` stopped, and returns at once if that was the end.

    Args:
        name: of the method: its files in the run folder are called so.
        recipe: loss, learning rate.
        method_config: kept beside the weights; a run that goes on must have the same.
        build_model: makes the network, after everything random was seeded.
        samples: (length, seed) -> the training samples, drawn in order.
        out: run folder; created.
        config: budget and optimiser.
        data: folder of the data, noted in the run.
        labels: object ids that go into the weights file.
        notes: texts that go into the weights file.
        init_weights: called with a network that starts anew, to fill it from elsewhere.
        on_start: called once when the run may write: what else belongs into its folder.
        batch_transform: device -> what makes batches of collated samples on that device, where samples are only plans.
        measure: what every few minutes says how good the network is, on samples that it does not learn from.
        progress_bar: show one, and say what was measured.

    Returns:
        the weights file, out/NAME.safetensors.

    Raises:
        ValueError: `out` holds a run of another configuration, or a checkpoint that cannot be read.
        OSError: another process trains the same there; the disk is full.
        KeyboardInterrupt: somebody interrupted; everything is saved, and the message says so.
    """
    first_rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
    with sole_writer(out, name) if first_rank else nullcontext():
        keep_memory()
        last, file = _last_checkpoint(out, name), out / f"{name}.safetensors"
        L.seed_everything(config.seed, verbose=False)
        model = build_model()
        first, spent, start, seen = 0, 0.0, 0, None
        if last is not None:
            state = torch.load(last, weights_only=True, map_location="meta", mmap=True)
            first, spent, start = state.get("first", 0), state["spent"], int(state["global_step"])
            seen = state.get("seen")
        elif file.is_file():
            first, spent = _go_on_from(model, name, file)
        elif init_weights is not None:
            init_weights(model)
        learner = _Learner(recipe, model.to(memory_format=torch.channels_last), config, batch_transform)
        learner.first, learner.spent = first, spent
        if config.compile:
            model.compile()
        texts = {**(notes or {}), "train": json.dumps(asdict(config)), "device": _device_name()}

        def export(state: Mapping[str, Tensor]) -> None:
            measured = {"steps": str(learner.steps), "minutes": f"{learner.seconds / 60:.3f}"}
            kept = {k: v for k, v in state.items() if not k.startswith("discriminator")}
            weights.save(file, kept, method=name, config=method_config, labels=labels, notes=texts | measured, half=True)

        takes_turns = any(key.startswith("discriminator") for key, _ in model.named_parameters())
        steps = first + start // (1 + takes_turns)
        with _quiet():
            shown = _Progress(name, out, config, measure, progress_bar)
            trainer = _trainer(out, name, config, export, shown, first + start, takes_turns, recipe.half_on_cpu)
        if trainer.is_global_zero:
            _save_config(out / f"{name}.json", method_config, data)
            if on_start is not None:
                on_start()
        if file.is_file() and weights.read(file, name).notes.get("steps") == str(steps) and is_finished(config, steps, spent):
            return file
        world, rank = trainer.world_size, trainer.global_rank
        a_step = config.batch_size * config.accumulate * world
        learner.seen = steps * a_step if seen is None else seen  # where the samples go on, whatever the number of processes
        share = _Share(learner.seen, a_step * (config.steps + 1), config.batch_size, rank, world)
        drawn = samples(share.last, config.seed * 1_000_003)
        loader = DataLoader(
            drawn, config.batch_size, sampler=share, num_workers=config.workers, collate_fn=recipe.collate, drop_last=True,
            persistent_workers=config.workers > 0, prefetch_factor=4 if config.workers else None, worker_init_fn=_start_worker,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        handler = signal.getsignal(signal.SIGINT)
        try:
            with _quiet():
                trainer.fit(learner, loader, ckpt_path=str(last) if last else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C, deaf to the next one
            signal.signal(signal.SIGINT, handler)
            kept = f"saved after {learner.steps:,} steps in {out}; the same command goes on"
            raise KeyboardInterrupt(kept if file.is_file() else "nothing was learned yet") from None

        return file


class _Share(Sampler[int]):
    """Which samples a process draws: batch after batch the processes take turns, so that together they see what one process
    with a larger batch would see."""

    def __init__(self, first: int, count: int, batch: int, rank: int, world: int) -> None:
        self.first, self.last, self.batch, self.rank, self.world = first, first + count, batch, rank, world

    def __len__(self) -> int:
        return (self.last - self.first) // self.world

    def __iter__(self) -> Iterator[int]:
        for start in range(self.first + self.rank * self.batch, self.last, self.world * self.batch):
            yield from range(start, start + self.batch)


def is_finished(config: TrainConfig, steps: int, seconds: float) -> bool:
    """Whether a training of so many steps and seconds has used up its budget."""
    return steps >= config.steps or (config.minutes is not None and seconds >= 0.99 * 60 * config.minutes)


def _go_on_from(model: nn.Module, method: str, file: Path) -> tuple[int, float]:
    """Fill a network from the weights of a training whose checkpoint is gone; returns its steps and seconds.

    Raises:
        ValueError: the weights are of another method or configuration.
    """
    saved = weights.read(file, method)
    config: Any = model.config
    if weights.build_config(type(config), saved.config) != config:
        raise ValueError(f"{file} belongs to a run with another configuration; choose another --out or delete {file.parent}")
    model.load_state_dict(saved.state, strict=False)  # a discriminator is not kept
    return int(saved.notes.get("steps", 0)), 60 * float(saved.notes.get("minutes", 0))


def _start_worker(worker: int) -> None:
    """Samples are drawn in one thread; Ctrl-C is for the process that learns, which ends the workers when it has saved."""
    one_thread(worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advertisements and the advice of Lightning, whose settings are ours; its errors come through."""
    talkers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [talker.level for talker in talkers]
    try:
        for talker in talkers:
            talker.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning|torch")
            yield
    finally:
        for talker, level in zip(talkers, levels):
            talker.setLevel(level)


def keep_memory() -> None:
    """Let this process keep the memory that it frees instead of giving it back to the system, where the C library is glibc.

    A training step asks for the same large maps again and again; fetching fresh pages for them takes an eighth of its time.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        largest_in_heap, given_back_beyond = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        library.mallopt(largest_in_heap, 32 << 20)  # the most it takes
        library.mallopt(given_back_beyond, 1 << 30)


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without them bfloat16 is slower than float32."""
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask() for ask in checks if ask is not None)


def _trainer(
    out: Path,
    method: str,
    config: TrainConfig,
    export: Callable[..., None],
    shown: _Progress,
    start: int,
    takes_turns: bool,  # generator and discriminator learn in turn, so a backward pass leaves some parameters out
    half_on_cpu: bool,
) -> L.Trainer:
    env = os.environ  # torchrun sets the first name of each pair, SLURM the second
    world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", "1")))
    local = int(env.get("LOCAL_WORLD_SIZE", env.get("SLURM_NTASKS_PER_NODE", str(world))))
    cuda = torch.cuda.is_available()
    if cuda and world > 1 and (there := torch.cuda.device_count()) < local:
        raise ValueError(
            f"{local} processes on this machine, each of which has to see {local} GPUs; this one sees {there}: start as many "
            f"as there are GPUs, under SLURM with --gpus-per-node {local} (--gpus-per-task shows each its own alone)"
        )
    half = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else half_on_cpu and multiplies_bfloat16()
    logs = out / "logs"
    return L.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=local if world > 1 else 1,
        num_nodes=max(world // local, 1),
        strategy="auto" if world == 1 else "ddp_find_unused_parameters_true" if takes_turns else "ddp",
        precision="bf16-mixed" if half else "32-true",
        max_steps=-1,
        max_epochs=-1,  # samples have no end; a finished run that is given more goes on
        callbacks=[
            _ema(config.ema),
            _Checkpoints(out / "checkpoints" / method / "last.ckpt", config.checkpoint_minutes, export),
            shown,
        ],
        enable_checkpointing=False,
        plugins=[_WholeFiles()],
        logger=[
            CSVLogger(logs, name=method, version=f"from_{start}"),
            TensorBoardLogger(logs, name=f"{method}_tb", version=""),
        ],
        sync_batchnorm=cuda and world > 1,  # torch has none on the CPU
        enable_progress_bar=False,
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
        kept = out / f"{method}.safetensors"
        raise ValueError(f"{last} cannot be read ({error}); delete it to go on from {kept}, or restore a copy") from error
    return last


def _save_config(path: Path, method_config: Any, data: Path) -> None:
    if path.is_file() and _saved_config(path, type(method_config)) != method_config:
        raise ValueError(f"{path} belongs to a run with another configuration; choose another --out or delete {path.parent}")
    write_json(path, {"config": asdict(method_config), "data": str(data)})


def _saved_config(path: Path, config_class: type) -> Any:
    """The configuration a run was started with; what it does not name, as its version did not know it, is the default."""
    return weights.build_config(config_class, value(read_json(path), "config", str(path)), str(path))
