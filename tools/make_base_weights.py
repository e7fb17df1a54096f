"""Make the base weights that monopose ships from a run that learned many objects.

    python tools/make_base_weights.py runs/base src/monopose/assets/base

Backbone and decoder stay; where every object has rows of its own only their mean stays, from which a new object starts.
What the networks knew of single meshes (places, sizes) goes. Large tensors are stored as float16. Refiner and silhouettes
know no object (`--set obj_ids=[]`) and have nothing to drop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from monopose import weights
from monopose.training import warm_start

METHODS = ("coordinates", "detector", "refiner", "silhouettes")
_MESHES = ("centre", "scale", "corners")  # buffers of `objects.networks.ObjectGeometry`, a row for each object


def stripped(checkpoint: weights.Checkpoint) -> dict[str, torch.Tensor]:
    """The parameters with one row in place of those of all objects, their mean."""
    state = dict(checkpoint.state)
    for name, each in warm_start.OBJECT_ROWS.items():
        if name in state:
            before = warm_start.ROWS_OF_NONE.get(name, 0)
            rows = state[name][before:].unflatten(0, (-1, each))
            state[name] = torch.cat([state[name][:before], rows.mean(0)])
    for name in _MESHES:
        if name in state:
            state[name] = torch.ones_like(state[name][:1]) if name == "scale" else torch.zeros_like(state[name][:1])
    if "ids" in state:
        state["ids"] = torch.zeros_like(state["ids"][:1])
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("out", type=Path, help="folder of the base")
    args = parser.parse_args()
    files = {m: f for m, f in weights.weights_in(args.run).items() if m in METHODS}
    if not files:
        parser.error(f"{args.run} holds none of {', '.join(METHODS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for method, file in files.items():
        checkpoint = weights.read(file)
        config = checkpoint.config | {"obj_ids": [] if method in ("refiner", "silhouettes") else [0]}
        notes = checkpoint.notes | {"objects": str(len(checkpoint.labels))}
        made = weights.save(
            args.out / f"{method}.safetensors", stripped(checkpoint), method=method, config=config, notes=notes, half=True
        )
        print(f"{made}: {made.stat().st_size / 1e6:.1f} MB, from {len(checkpoint.labels)} objects ({file})")


if __name__ == "__main__":
    main()
