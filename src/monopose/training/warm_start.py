"""Weights of one network as the start of another."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from .. import weights


def start_from(model: nn.Module, path: Path) -> None:
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
    shared = {k: v for k, v in stored.items() if k in own and v.shape == own[k].shape and not k.startswith(PER_OBJECT)}
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


PER_OBJECT = (
    "net.which.", "net.head.", "weight_head.", "net.heat.", "net.distances.", "net.semantic.", "discriminator.",
    "net.net.roi_heads.box_predictor.", "net.net.roi_heads.mask_predictor.mask_fcn_logits.",
)  # fmt: skip
