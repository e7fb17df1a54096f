"""The training loop that every method shares, on Lightning: resumes by itself, keeps to a budget, runs under torchrun.

A run folder holds `METHOD.safetensors` (averaged weights, rewritten at every checkpoint), `METHOD.json` (the configuration),
`checkpoints/METHOD/last.ckpt` (everything needed to go on) and `logs/METHOD/from_STEP/metrics.csv`.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .. import weights
from ..io.files import write_json
from ..io.records import read_json, value
from ..synthesis.samples import one_thread


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


BatchTransform = Callable[[torch.device], Callable[[dict[str, Any]], dict[str, Any]]]


class Recipe(NamedTuple):
    """What the loop needs to know of a method."""

    inputs: tuple[str, ...]  # batch keys that the model's forward takes
    loss: Callable[[Any, Any, Any], dict[str, Tensor]]  # model, output, batch -> named scalars; their sum is minimised
    lr: Callable[[Any], float] = lambda config: 1e-3  # peak learning rate for a Config
    rate: Callable[[Any, float], float] | None = None  # Config, share of the budget -> share of that; None: `warm_cosine`
    decay: Callable[[Any], float | None] = lambda config: None  # weight decay for a Config; None: that of the TrainConfig
    collate: Callable[..., Any] | None = None
    discriminator: Callable[[Any, Any, Any], Tensor] | None = None  # loss of an opponent that learns in turn
    half_on_cpu: bool = False  # bfloat16 on CPUs that multiply it, too; for networks where that was measured to be faster


def warm_cosine(done: float, warmup: float) -> float:
    """Learning rate over its peak: up in the first `warmup` of the budget, then down a cosine. Never quite 0."""
    rate = min(done / warmup, 1.0) if done < warmup else 0.5 * (1 + math.cos(math.pi * done))
    return max(rate, 1e-3)


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
        self.spent = 0.0  # seconds of training in this and earlier processes
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
        main = [{"params": groups["rest"], "scale": 1.0}, {"params": groups["backbone"], "scale": 0.5}]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([g for g in main if g["params"]], lr=self.lr, weight_decay=decay, fused=True)
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
        if self._draw is not None:
            batch = self._draw(batch)
        optimizers = self.optimizers()
        optimizer, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        done = self.progress()
        warmup = self.config.warmup
        rate = warm_cosine(done, warmup) if self.recipe.rate is None else self.recipe.rate(self.model.config, done)
        for group in optimizer.param_groups:
            group["lr"] = self.lr * rate * group["scale"]
        if batch["image"].dim() == 4:
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        output = self.model(*(batch[key] for key in self.recipe.inputs))
        losses = self.recipe.loss(self.model, output, batch | {"progress": torch.tensor(done)})  # for losses that warm up
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
        assert self.recipe.discriminator is not None
        value = self.recipe.discriminator(self.model, output, batch)
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

    def on_fit_start(self) -> None:
        if self.batch_transform is not None:
            self._draw = self.batch_transform(self.device)

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
    def blend(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        keep = min(decay, (1 + float(count)) / (10 + float(count)))  # short memory at the start
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, 1 - keep)
        else:
            torch._foreach_copy_(averages, current)

    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else None
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
    progress_bar: bool = True,
) -> Path:
    """Train one network; goes on where an earlier, killed run in `out` stopped.

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
        progress_bar: show one.

    Returns:
        the weights file, out/NAME.safetensors.

    Raises:
        ValueError: `out` holds a run of another configuration, or a checkpoint that cannot be read.
    """
    keep_memory()
    last = _last_checkpoint(out, name)
    L.seed_everything(config.seed, verbose=False)
    model = build_model()
    if init_weights is not None and last is None:
        init_weights(model)
    learner = _Learner(recipe, model.to(memory_format=torch.channels_last), config, batch_transform)
    file = out / f"{name}.safetensors"
    texts = {**(notes or {}), "train": json.dumps(asdict(config)), "device": _device_name()}

    def export(state: Mapping[str, Tensor]) -> None:
        spent = learner.spent + time.monotonic() - learner._since
        measured = {"steps": str(learner.steps), "minutes": f"{spent / 60:.1f}"}
        kept = {k: v for k, v in state.items() if not k.startswith("discriminator")}
        weights.save(file, kept, method=name, config=method_config, labels=labels, notes=texts | measured, half=True)

    start = 0
    if last is not None:
        start = int(torch.load(last, weights_only=True, map_location="cpu", mmap=True)["global_step"])
    takes_turns = any(key.startswith("discriminator") for key, _ in model.named_parameters())
    trainer = _trainer(out, name, config, export, progress_bar, start, takes_turns, recipe.half_on_cpu)
    if trainer.is_global_zero:
        _remember(out / f"{name}.json", method_config, data)
        if on_start is not None:
            on_start()
    drawn = samples(config.batch_size * (config.steps + 1), config.seed * 1_000_003 + trainer.global_rank * 7919 + start)
    loader = DataLoader(
        drawn, config.batch_size, num_workers=config.workers, collate_fn=recipe.collate, drop_last=True,
        persistent_workers=config.workers > 0, prefetch_factor=4 if config.workers else None, worker_init_fn=one_thread,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    trainer.fit(learner, loader, ckpt_path=str(last) if last else None, weights_only=True)
    return file


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
    progress_bar: bool,
    start: int,
    takes_turns: bool,  # generator and discriminator learn in turn, so a backward pass leaves some parameters out
    half_on_cpu: bool,
) -> L.Trainer:
    env = os.environ  # torchrun sets the first name of each pair, SLURM the second
    world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", "1")))
    local = int(env.get("LOCAL_WORLD_SIZE", env.get("SLURM_NTASKS_PER_NODE", str(world))))
    cuda = torch.cuda.is_available()
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


def _remember(path: Path, method_config: Any, data: Path) -> None:
    if path.is_file() and _remembered(path, type(method_config)) != method_config:
        raise ValueError(f"{path} belongs to a run with another configuration; choose another --out or delete {path.parent}")
    write_json(path, {"config": asdict(method_config), "data": str(data)})


def _remembered(path: Path, config_class: type) -> Any:
    """The configuration a run was started with; what it does not name, as its version did not know it, is the default."""
    return weights.build_config(config_class, value(read_json(path), "config", str(path)), str(path))
