"""What the command line does with categories: training with pictures of what was learned, poses of objects in photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from .. import weights
from ..command import Predict, Printer, Result, Train, overrides, run_folder, save_picture, schedule
from . import model as category
from . import viz
from .model import Model
from .pipeline import SEARCHES, load, predict_nocs, predict_pictures, save_gif
from .samples import CategoryViews, ViewConfig

HELD_OUT = 400  # seeds from here on are nobody's training shapes


# --------------------------------------------------------------------------------------------------------------- training


def do_train(args: Train) -> dict[str, str]:
    """Train a category, and draw what was learned."""
    from ..training import loop
    from . import training

    assert args.category is not None
    file = training.train_category(
        run_folder(args), args.category, instances=training.INSTANCES if args.instances is None else args.instances,
        backgrounds=args.backgrounds, config=loop.TrainConfig(**schedule(args), ema=training.EMA),
        method_config=training.make_config(args.category, args.preset, overrides(args.set)), progress_bar=not args.json,
    )  # fmt: skip
    model = weights.load_network(file, category.Config, Model)
    return {"weights": str(file), "pictures": str(save_report(model, file.parent / "pictures"))}


def save_report(model: Model, folder: Path, instances: Sequence[int] = range(HELD_OUT, HELD_OUT + 5)) -> Path:
    """Pictures of a network: reconstructions of shapes it has not learned from, sweeps around them, and what lies between.

    Args:
        folder: for reconstructions.png, azimuth.gif, elevation.gif, interpolation.gif; created.
        instances: seeds of the shapes.
    """
    model.eval()
    plain = ViewConfig(covered=0.0)
    drawn = [CategoryViews(model.config.category, [i], model.config.input_size, 1, seed=i, config=plain)[0] for i in instances]
    save_picture(folder / "reconstructions.png", viz.reconstructions(model, drawn))
    with torch.no_grad():
        codes = model.encode(torch.stack([d["image"][0] for d in drawn]), torch.stack([d["visible"][0] for d in drawn]).float())
    means = codes[0].mean
    save_gif(folder / "azimuth.gif", viz.azimuth_sweep(model, means[:3]))
    save_gif(folder / "elevation.gif", viz.elevation_sweep(model, means[:3]))
    save_gif(folder / "interpolation.gif", viz.interpolation(model, means))
    return folder


# ------------------------------------------------------------------------------------------------------------- prediction


def do_predict(args: Predict, say: Printer) -> Result:
    """Poses of a category's objects in pictures, or scores on a data set in NOCS's layout."""
    run, search = load(args.model, args.device), SEARCHES[args.search or "default"]()
    if args.nocs is not None:
        return predict_nocs(
            run, args.nocs, args.out or Path("out/nocs.json"), config=search, overlap=args.overlap or "oriented",
            limit=args.limit, progress_bar=not args.json,
        )  # fmt: skip
    return predict_pictures(
        run, args.source or "", args.out or Path("out/predict"), mask=args.mask, boxes=args.boxes, camera=args.camera,
        fov_deg=args.fov, resize_camera=args.resize_camera, size=args.size_m, score=0.2 if args.score is None else args.score,
        config=search, limit=args.limit, debug=args.debug, say=say,
    )  # fmt: skip
