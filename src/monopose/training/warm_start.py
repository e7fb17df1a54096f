"""Weights of one network as the start of another."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import weights

STATISTICS = ("running_mean", "running_var")  # of normalisation layers: buffers that were learned
OBJECT_ROWS = {  # parameters with rows for each object: how many
    "net.which.weight": 1, "features.which.weight": 1,
    "net.head.weight": 1, "net.head.bias": 1, "weight_head.weight": 1, "weight_head.bias": 1,
    "net.heat.weight": 1, "net.heat.bias": 1, "net.distances.weight": 4, "net.distances.bias": 4,
    "net.semantic.weight": 1, "net.semantic.bias": 1,
}  # fmt: skip
ROWS_OF_NONE = {"net.semantic.weight": 1, "net.semantic.bias": 1}  # before those of the objects: how many belong to none
OF_OBJECTS = (  # what begins so belongs to single objects
    *OBJECT_ROWS, "discriminator.",
    "net.net.roi_heads.box_predictor.", "net.net.roi_heads.mask_predictor.mask_fcn_logits.",
)  # fmt: skip


class OtherNetwork(ValueError):
    """Weights are those of a network of another shape."""


class Rows(NamedTuple):
    """Parameters with rows for each thing that a network knows: an object, a class."""

    of: Mapping[str, int]  # what a name begins with -> rows of each thing
    here: Sequence[Hashable]  # the things that the network knows, in the order of its rows
    there: Sequence[Hashable]  # those that the weights know
    of_none: Mapping[str, int] = {}  # what a name begins with -> rows before those of the things, which belong to none
    some_outputs: tuple[str, ...] = ()  # what a name begins with, where only the first outputs for a thing may be the same
    new_as_mean: bool = False  # whether things that the weights do not know begin as the mean over those that they know


def start_from(model: nn.Module, path: str | Path) -> None:
    """Copy the parameters of a run for other CAD models.

    Where every object has rows of its own (the coordinate network's last layer, the detector's maps), objects known to both
    runs keep theirs, and the others begin as the mean over all objects of that run. Networks of different methods share the
    backbone and what else has the same name.

    Raises:
        OtherNetwork: less than half of the parameters fit, or the backbone is another one; the model is as it was.
    """
    checkpoint = weights.read(path)
    plain = bool(checkpoint.config.get("plain_photos", False))
    if plain != getattr(model.config, "plain_photos", False):
        raise ValueError(
            f"{path} has learned of photos that are {'not ' * plain}normalised as ImageNet's; add --set "
            f"plain_photos={str(plain).lower()}"
        )
    rows = Rows(
        OBJECT_ROWS, model.config.obj_ids, checkpoint.labels, ROWS_OF_NONE,  # type: ignore[union-attr, arg-type]
        some_outputs=("net.head.", "weight_head."), new_as_mean=True,
    )  # fmt: skip
    there, here = _root(checkpoint.state), _root(name for name, _ in model.named_parameters())
    if here is not None and there is not None and here != there:  # net.stages in the one, features.stages in the other
        _copy_below_root(model, checkpoint, rows, there, here)
    else:
        copy_fitting(model, checkpoint, rows, OF_OBJECTS, STATISTICS)


def copy_fitting(
    model: nn.Module, checkpoint: weights.Checkpoint, rows: Rows, anew: tuple[str, ...] = (), buffers: tuple[str, ...] = ("",)
) -> None:
    """Copy the parameters that have the same name and shape, and rows of things, see `Rows`.

    Args:
        model: is filled.
        checkpoint: the weights.
        rows: which parameters have rows of things.
        anew: parameters that begin so keep their own values, but for rows.
        buffers: only buffers whose names end so are copied.

    Raises:
        OtherNetwork: less than half of the parameters fit.
    """
    own, state = dict(model.named_parameters()), model.state_dict()
    fitting: dict[str, Tensor] = {}
    for name, value in state.items():
        old = checkpoint.state.get(name)
        if old is None or (name not in own and not name.endswith(buffers)):
            continue
        if name.startswith(tuple(rows.of)):
            filled = _with_rows(name, value, old, rows)
            fitting |= {} if filled is None else {name: filled}
        elif value.shape == old.shape and not (name in own and name.startswith(anew)):
            fitting[name] = old.to(value)
    if sum(name in own for name in fitting) < len(own) / 2:
        raise OtherNetwork(
            f"only {sum(name in own for name in fitting)} of {len(own)} parameters in {checkpoint.path} fit this "
            "configuration; is it the same network?"
        )
    model.load_state_dict(fitting, strict=False)


def _with_rows(name: str, value: Tensor, old: Tensor, rows: Rows) -> Tensor | None:
    """The value of a parameter that has rows of things, filled from the weights; None if they say nothing of it."""
    count = next(n for start, n in rows.of.items() if name.startswith(start))
    before = next((n for start, n in rows.of_none.items() if name.startswith(start)), 0)
    if value.dim() != old.dim():
        return None
    mine, theirs = (v[before:].unflatten(0, (-1, count)) for v in (value.clone(), old.to(value)))  # a row for each thing
    same = mine.shape[1:] == theirs.shape[1:]
    if not same and not (name.startswith(rows.some_outputs) and mine.shape[3:] == theirs.shape[3:]):
        return None
    sources: list[int | None] = [None] * len(mine)
    if (len(mine), len(theirs)) == (len(rows.here), len(rows.there)):
        sources = [rows.there.index(thing) if thing in rows.there else None for thing in rows.here]
    if not rows.new_as_mean and not any(source is not None for source in sources):
        return None
    mean = theirs.mean(0)
    for row, source in zip(mine, sources, strict=True):
        if source is None and not rows.new_as_mean:
            continue
        known = mean if source is None else theirs[source]
        if same:
            row.copy_(known)
        else:
            outputs = min(row.shape[1], known.shape[1])
            row[:, :outputs] = known[:, :outputs]
    return torch.cat([(old.to(value) if same and rows.new_as_mean else value)[:before], mine.flatten(0, 1)])


def _root(names: Iterable[str]) -> str | None:
    """What stands before "backbone." in the names of parameters."""
    return next((name[: name.index("backbone.")] for name in names if "backbone." in name), None)


def _copy_below_root(model: nn.Module, checkpoint: weights.Checkpoint, rows: Rows, there: str, here: str) -> None:
    """Copy the backbone and what follows it under the same name and shape from a network of another method."""
    state = model.state_dict()
    stored = {here + k.removeprefix(there): v for k, v in checkpoint.state.items() if k.startswith(there)}
    which = here + "which.weight"
    if which in state and which in stored:
        filled = _with_rows(which, state[which], stored.pop(which), rows)
        stored |= {} if filled is None else {which: filled}
    fitting = {k: v for k, v in stored.items() if k in state and v.shape == state[k].shape}
    backbone = [k for k in state if k.startswith(here + "backbone.")]
    if not all(k in fitting for k in backbone):
        raise OtherNetwork(f"the backbone of {checkpoint.path} is another one than {model.config.backbone!r}")  # type: ignore[union-attr]
    model.load_state_dict(fitting, strict=False)
