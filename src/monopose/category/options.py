"""What the commands take for categories."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..command import (
    CameraOptions,
    Common,
    Flag,
    MaybeInt,
    MaybeName,
    MaybePath,
    OutputOptions,
    ShardOptions,
    TrainCommand,
    Unit,
    check_share,
    check_shared,
    check_source,
    refuse,
)
from ..detection import LEAST_SCORE

MADE = ("mug", "bottle", "bowl", "can", "laptop", "camera")  # whose shapes are made in code


@dataclass(kw_only=True)
class Train(TrainCommand):
    """Train the generator of a category, on your CAD models of it or on shapes made in code; goes on where an earlier run in
    the same folder stopped, and draws what was learned."""

    method: Positional[Literal["category"]]
    """What to train."""
    data: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Your CAD models: mesh files of one category, +Z up and fronts towards -Y; or folders of them named by category, or a BOP
    models folder. None: shapes made in code."""
    category: MaybeName = None
    """What to learn: mug, bottle, bowl, can, laptop or camera; with --data the name of yours, by default that of the folder."""
    out: MaybePath = None
    """Run folder; runs/category_NAME by default."""
    symmetric: Flag = False
    """With --data: any rotation about +Z leaves the objects as they are. Of what is made in code it is known."""
    unit: Unit = None
    """With --data: unit of the numbers in the mesh files; needed for all but GLB, glTF and BOP folders."""
    instances: MaybeInt = None
    """Without --data: shapes to learn from; 400 by default."""
    preset: MaybeName = None
    """Ready configuration: standard (default), tiny, small, large, published."""

    def check(self) -> None:
        if self.data is None:
            if self.category is None:
                raise ValueError(
                    "say what to learn: --category mug, bottle, bowl, can, laptop or camera, or your CAD models with --data DIR"
                )
            if self.category not in MADE:
                raise ValueError(
                    f"no category {self.category!r} is made in code; choose one of {', '.join(MADE)}, or give your CAD "
                    "models with --data DIR"
                )
            for name in ("symmetric", "unit"):
                if getattr(self, name):
                    raise ValueError(f"--{name} belongs to --data DIR; of what is made in code it is known")
        elif self.instances is not None:
            raise ValueError("--instances says how many shapes are made in code; with --data your own are taken, all of them")


@dataclass(kw_only=True)
class ObjectOptions:
    """Where objects are in the pictures of a SOURCE, and how large they are."""

    mask: MaybePath = None
    """Picture of the objects' masks: white where the only one is, or a number for each."""
    boxes: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Boxes around them, x0,y0,x1,y1 in pixels, or one COCO, BOP or MegaPose JSON file: what is inside is cut out by colour."""
    score: float = LEAST_SCORE
    """Least score of the run's own detector, from 0 to 1, which is taken where there is neither mask nor box."""
    size_m: Annotated[tuple[float, float, float] | None, arg(metavar="W D H", help_behavior_hint="")] = None
    """Width, depth and height of the objects in metres; by default what is usual in the category."""


@dataclass(kw_only=True)
class NocsOptions:
    """A whole data set in NOCS's layout, in place of a SOURCE. --out is a file, out/nocs.json by default."""

    nocs: MaybePath = None
    """Folder in the layout of REAL275 or CAMERA25, with its masks; scored by NOCS's protocol."""
    overlap: Literal["oriented", "aligned", "nocs2019"] = "oriented"
    """Which 3D IoU. nocs2019: the original's, which is wrong, for old tables."""
    detections: MaybePath = None
    """Folder of NOCS's detections, results_*_scene_1_0000.pkl: their masks in place of the data set's own."""
    gts: MaybePath = None
    """Folder of the published ground truth, gts/real_test; by default poses are computed from coordinates and depth."""


@dataclass(kw_only=True)
class Predict(Common):
    """Poses of a category's objects in masks or boxes, by fitting a generator of pictures; metres where size and camera are
    known."""

    source: Annotated[Positional[str | None], arg(metavar="SOURCE", help_behavior_hint="")] = None
    """Image, folder of images, video, or camera number. Not with --nocs."""
    model: str
    """Run folder."""
    search: Literal["default", "published", "quick"] = "default"
    """How to search for the pose; published: 32 starts, 50 steps each."""
    features: Annotated[
        Literal["efficientnet_lite0", "vgg19", "demo", "pyramid"] | None,
        arg(metavar="{efficientnet_lite0,vgg19,demo,pyramid}", help_behavior_hint=""),
    ] = None
    """In which pictures are compared: efficientnet_lite0 by default, vgg19 for the published search; an error where their
    weights are not there. demo: those of the bundled network."""
    debug: Flag = False
    """Save the stages of every fit as pictures in OUT/debug, and show the traceback of an error."""
    output: OutputOptions = field(default_factory=OutputOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    objects: ObjectOptions = field(default_factory=ObjectOptions)
    nocs: NocsOptions = field(default_factory=NocsOptions)
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        if (self.share(self.sharing) is not None or self.sharing.ray is not None) and self.nocs.nocs is not None:
            raise ValueError("--shard and --ray go with a SOURCE, not with --nocs")
        check_source(self.source, self.nocs.nocs, "nocs")
        check_shared(self.sharing, self.source)
        check_share(self.objects.score, "score")
        if self.nocs.nocs is None:
            refuse(self.nocs, "belongs to --nocs DIR")
        else:
            for group in (self.camera, self.objects):
                refuse(group, "does not go with --nocs, whose masks and cameras are known")
        if self.objects.mask is not None and self.objects.boxes:
            raise ValueError("--mask and --boxes both say where the objects are; give one of them")


@dataclass(kw_only=True)
class Evaluate(Common):
    """Score poses that lie in pickles as NOCS and those who compare with it write them, by NOCS's protocol, and draw its
    curves. No code in the pickles is run."""

    results: Positional[Path]
    """Folder with results_*.pkl, one for each photo."""
    gts: MaybePath = None
    """Folder of the published ground truth, gts/real_test, in place of what the results say of it."""
    overlap: Literal["oriented", "aligned", "nocs2019"] = "oriented"
    """Which 3D IoU. nocs2019: the original's, which is wrong, for old tables."""
    out: MaybePath = None
    """Folder for the curves: scores.json and curves.png."""
