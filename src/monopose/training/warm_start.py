"""Weights of one network as the start of another."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from .. import weights

STATISTICS = ("running_mean", "running_var")  # of normalisation layers: buffers that were learned
OF_OBJECTS = (  # what begins so belongs to single objects
    "net.which.", "net.head.", "weight_head.", "net.heat.", "net.distances.", "net.semantic.", "discriminator.",
    "net.net.roi_heads.box_predictor.", "net.net.roi_heads.mask_predictor.mask_fcn_logits.",
)  # fmt: skip
OBJECT_ROWS = ("net.which.weight", "net.head.weight", "net.head.bias", "weight_head.weight", "weight_head.bias")


class Rows(NamedTuple):
    """Parameters with rows for each thing that a network knows: an object, a class."""

    of: Mapping[str, int]  # what a name begins with -> rows of each thing
    here: Sequence[Hashable]  # the things that the network knows, in the order of its rows
    there: Sequence[Hashable]  # those that the weights know
    some_outputs: bool = False  # where one network has more outputs for a thing than the other, they begin with the same


def start_from(model: nn.Module, path: str | Path) -> None:
    """Copy the parameters of a run for other CAD models; what belongs to single objects starts anew, but for objects known to
    both runs. Networks of different methods share the backbone and what else has the same name.

    Raises:
        ValueError: less than half of the parameters fit: it is another network.
    """
    checkpoint = weights.read(path)
    there, here = _root(checkpoint.state), _root(name for name, _ in model.named_parameters())
    if here is not None and there is not None and here != there:  # net.stages in the one, features.stages in the other
        _copy_below_root(model, checkpoint, there, here)
        return
    rows = Rows(dict.fromkeys(OBJECT_ROWS, 1), model.config.obj_ids, checkpoint.labels, True)  # type: ignore[union-attr, arg-type]
    copy_fitting(model, checkpoint, rows, OF_OBJECTS, STATISTICS)


def copy_fitting(
    model: nn.Module, checkpoint: weights.Checkpoint, rows: Rows, anew: tuple[str, ...] = (), buffers: tuple[str, ...] = ("",)
) -> None:
    """Copy the parameters that have the same name and shape, and the rows of things that both networks know.

    Args:
        model: is filled.
        checkpoint: the weights.
        rows: which parameters have rows of things.
        anew: parameters that begin so keep their own values, but for rows.
        buffers: only buffers whose names end so are copied.

    Raises:
        ValueError: less than half of the parameters fit: it is another network.
    """
    own, state = dict(model.named_parameters()), model.state_dict()
    both = [(rows.here.index(thing), rows.there.index(thing)) for thing in rows.there if thing in rows.here]
    fitting: dict[str, Tensor] = {}
    for name, value in state.items():
        old = checkpoint.state.get(name)
        if old is None or (name not in own and not name.endswith(buffers)):
            continue
        count = next((n for start, n in rows.of.items() if name.startswith(start)), 0)
        if count and (len(value), len(old)) == (count * len(rows.here), count * len(rows.there)):
            if both and _rows_fit(value, old, rows.some_outputs):
                fitting[name] = _with_rows(value, old, both, count)
        elif value.shape == old.shape and not (name in own and name.startswith(anew)):
            fitting[name] = old.to(value)
    if sum(name in own for name in fitting) < len(own) / 2:
        raise ValueError(
            f"only {sum(name in own for name in fitting)} of {len(own)} parameters in {checkpoint.path} fit this "
            "configuration; is it the same network?"
        )
    model.load_state_dict(fitting, strict=False)


def _rows_fit(value: Tensor, old: Tensor, some_outputs: bool) -> bool:
    return value.shape[2 if some_outputs else 1 :] == old.shape[2 if some_outputs else 1 :]


def _with_rows(value: Tensor, old: Tensor, both: Sequence[tuple[int, int]], count: int) -> Tensor:
    """The value with rows (and their first outputs) of things known to both."""
    result = value.clone()
    outputs = min(value.shape[1], old.shape[1]) if value.dim() > 1 else None
    for new, known in both:
        mine, theirs = result[count * new : count * (new + 1)], old[count * known : count * (known + 1)].to(value)
        if outputs is None:
            mine.copy_(theirs)
        else:
            mine[:, :outputs] = theirs[:, :outputs]
    return result


def _root(names: Iterable[str]) -> str | None:
    """What stands before "backbone." in the names of parameters."""
    return next((name[: name.index("backbone.")] for name in names if "backbone." in name), None)


def _copy_below_root(model: nn.Module, checkpoint: weights.Checkpoint, there: str, here: str) -> None:
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
