"""What the commands take for viewpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..command import (
    CameraOptions,
    Common,
    Flag,
    MaybeFloat,
    MaybeName,
    MaybePath,
    OutputOptions,
    ShardOptions,
    TrainCommand,
    Unit,
    check_shared,
    check_source,
    refuse,
)


@dataclass(kw_only=True)
class Synth(Common):
    """Make a data set in Pix3D's layout, for viewpoints: one object in each picture, with its mask and aligned model."""

    pix3d: Flag = False
    """Chooses this kind of data set."""
    models: Positional[tuple[Path, ...]] = ()
    """Mesh files with +Z up and their front towards -Y, or folders of them named by category; none: furniture made in code."""
    out: Path
    """Folder to make."""
    images: int = 40
    """How many pictures of each shape."""
    shapes: int = 10
    """Pieces of furniture per category."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    seed: int = 0
    """The same seed gives the same pictures."""
    unit: Unit = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""
    category: str = "object"
    """Category of single mesh files."""
    workers: int = 2
    """Processes that render."""
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        self.share(self.sharing)


@dataclass(kw_only=True)
class TrainNormals(TrainCommand):
    """Train the network that predicts normals and boundaries, an input of viewpoint networks; goes on where an earlier run in
    the same folder stopped."""

    method: Positional[Literal["normals"]]
    """What to train."""
    data: Annotated[Path, arg(metavar="DIR")]
    """Folder in Pix3D's layout, BOP folder with models/, or the word furniture: shapes made in code."""
    categories: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Categories to learn; all by default."""
    preset: MaybeName = None
    """Ready configuration: small (default), large."""


@dataclass(kw_only=True)
class Train(TrainCommand):
    """Train a network for viewpoints on photos in Pix3D's layout, or on CAD models; goes on where an earlier run in the same
    folder stopped."""

    method: Positional[Literal["viewpoint"]]
    """What to train."""
    data: Annotated[Path, arg(metavar="DIR")]
    """Folder in Pix3D's layout, BOP folder with models/, or the word furniture: shapes made in code."""
    categories: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Categories to learn; all by default."""
    preset: MaybeName = None
    """Ready configuration: modern (default); as published combined, separate."""
    epochs: MaybeFloat = None
    """Passes over the photos, in place of --steps; by default as the preset says (25)."""
    by: Annotated[str, arg(metavar="image|shape|FILE")] = "image"
    """What is left out for validation: a tenth of the photos, or of the CAD models with all their photos; or the published
    experiment's train_test_sp.pickle, of which no code is run."""
    inputs: Annotated[
        Literal["rgb", "mask", "boundaries", "normals"] | None,
        arg(metavar="{rgb,mask,boundaries,normals}", help_behavior_hint=""),
    ] = None
    """The last input it sees, those before it come with it; normals by default."""
    normals: str = "oracle"
    """Where normals of photos come from: oracle (rendered from the aligned CAD model), files (DATA/normals, and the boundaries
    in DATA/boundaries, of any network), none, or a run folder with normals.safetensors."""


@dataclass(kw_only=True)
class ObjectOptions:
    """Where objects are in the pictures of a SOURCE, and how large they are."""

    boxes: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Boxes around them: x0,y0,x1,y1 in pixels, or one COCO, BOP or MegaPose JSON file. Without box and mask an object fills
    the picture."""
    mask: MaybePath = None
    """Picture of the object's mask, white where it is; its box is taken where none is given."""
    size_m: Annotated[tuple[float, float, float] | None, arg(metavar="W D H", help_behavior_hint="")] = None
    """Width, depth and height of the object in metres; with a camera they give poses."""
    mesh: MaybePath = None
    """CAD model in place of --size-m; +Z up, front towards -Y. Its silhouette is drawn."""
    unit: Unit = None
    """Unit of --mesh."""


@dataclass(kw_only=True)
class Pix3dOptions:
    """A whole data set in Pix3D's layout, in place of a SOURCE. --out is a file, out/predictions.json by default."""

    pix3d: MaybePath = None
    """The data set's folder."""
    by: Annotated[str | None, arg(metavar="image|shape|all|FILE", help_behavior_hint="")] = None
    """Whose validation part to run on; by default that which the training left out. all: every picture."""
    corrupt: Annotated[str | None, arg(metavar="KIND:STRENGTH", help_behavior_hint="")] = None
    """Make the masks worse: dilate, erode, shift, holes or drop, and how much, e.g. dilate:0.1."""
    normals: Annotated[
        Literal["oracle", "files", "predicted"] | None, arg(metavar="{oracle,files,predicted}", help_behavior_hint="")
    ] = None
    """Where normals come from; by default as in training."""


@dataclass(kw_only=True)
class Predict(Common):
    """Viewpoints of objects in boxes or masks: azimuth, elevation and in-plane rotation in degrees; with a camera and the
    object's size poses too, in metres."""

    source: Annotated[Positional[str | None], arg(metavar="SOURCE", help_behavior_hint="")] = None
    """Image, folder of images, video, or camera number. Not with --pix3d."""
    model: str
    """Run folder."""
    debug: Flag = False
    """Save what the network saw as pictures in OUT/debug, and show the traceback of an error."""
    output: OutputOptions = field(default_factory=OutputOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    objects: ObjectOptions = field(default_factory=ObjectOptions)
    pix3d: Pix3dOptions = field(default_factory=Pix3dOptions)
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        if (self.share(self.sharing) is not None or self.sharing.ray is not None) and self.pix3d.pix3d is not None:
            raise ValueError("--shard and --ray go with a SOURCE, not with --pix3d")
        check_source(self.source, self.pix3d.pix3d, "pix3d")
        check_shared(self.sharing, self.source)
        if self.pix3d.pix3d is None:
            refuse(self.pix3d, "does not go with a SOURCE; it belongs to --pix3d DIR")
        else:
            for group in (self.camera, self.objects):
                refuse(group, "does not go with --pix3d, whose cameras, boxes and masks are known")
        if self.objects.size_m is not None and self.objects.mesh is not None:
            raise ValueError("--size-m and --mesh both say how large the object is; give one of them")
        if self.objects.size_m is not None and not self.camera.known:
            raise ValueError("a size gives a pose only with a camera: --camera FILE, or --fov DEGREES")


@dataclass(kw_only=True)
class Evaluate(Common):
    """Score viewpoints, a predictions.json, against a data set in Pix3D's layout."""

    results: Positional[Path]
    """predictions.json."""
    data: Path
    """The folder with pix3d.json."""
    out: MaybePath = None
    """Folder for pictures: confusion matrices, the worst mistakes."""
    bins: Annotated[Literal["published", "centred"] | None, arg(metavar="{published,centred}", help_behavior_hint="")] = None
    """Judge the angles in these bins; by default in those of the predictions."""
