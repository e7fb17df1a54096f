"""What the commands share: groups of options, the loop over pictures, results.

The options of a command are a dataclass in the `options.py` of its family, put together from the groups below. A field that is
itself a dataclass is a group of its own in --help. Nothing here imports anything heavy, so that help and errors come at once.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from .io import shards
from .io.files import IMAGE_SUFFIXES, Unreadable, atomic_write, list_unreadable, sole_writer
from .io.packed import digest_of_pictures, packed_files

if TYPE_CHECKING:
    from PIL import Image

    from .types import Detections, Frame

# their help says what None means, and does not add "(default: None)"
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
MaybeFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
MaybeName = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
MaybeInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Unit = Annotated[Literal["m", "cm", "mm", "inch"] | None, arg(metavar="{m,cm,mm,inch}", help_behavior_hint="")]
Device = Annotated[str | None, arg(metavar="cpu|cuda|cuda:N", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]

# ------------------------------------------------------------------------------------------------------ groups of options


@dataclass(kw_only=True)
class Common:
    """What every command takes."""

    json: Flag = False
    """Print the result as JSON, for programs."""
    debug: Flag = False
    """Show the traceback of an error."""
    threads: MaybeInt = None
    """Threads to compute with, at most; by default one for each core. Fewer are faster where others compute, too."""

    def __post_init__(self) -> None:
        self.words: tuple[str, ...] = ()  # the command line, for shards that `monopose merge` puts together

    def check(self) -> None:
        """Raise ValueError where options contradict each other; looks at no more than names of files."""

    def share(self, options: ShardOptions) -> shards.Shard | None:
        """The shard that is asked for; ValueError if there is no such one."""
        options.check()
        if options.shard is not None and options.ray is not None:
            raise ValueError("--shard and --ray both share the work; give one of them")
        return shards.parse(options.shard, self.words)


@dataclass(kw_only=True)
class CameraOptions:
    """The camera of the pictures of a SOURCE."""

    camera: MaybePath = None
    """Camera file: what `monopose camera` writes, or BOP's, MegaPose's, ROS', OpenCV's, Kalibr's, COLMAP's, cam_K.txt."""
    fov: MaybeFloat = None
    """Instead of a camera file: horizontal field of view, degrees."""
    resize_camera: Flag = False
    """The pictures are resized whole pictures of the camera: scale its K to them."""

    @property
    def known(self) -> bool:
        return self.camera is not None or self.fov is not None


@dataclass(kw_only=True)
class OutputOptions:
    """What is computed where, and where it goes."""

    out: Annotated[Path | None, arg(aliases=("--save",), metavar="PATH", help_behavior_hint="")] = None
    """Folder for pictures and results, out/predict by default; for a whole data set the result file."""
    limit: MaybeInt = None
    """Stop after this many pictures."""
    device: Device = None
    """Where the networks run; by default on the GPU if there is one."""
    strict: Flag = False
    """Stop at a picture that cannot be read. By default those among several are counted, listed in OUT/unreadable.txt, and left
    out."""

    @property
    def folder(self) -> Path:
        return self.out or Path("out/predict")


@dataclass(kw_only=True)
class RayOptions:
    """The work on a cluster (pip install 'monopose[ray]')."""

    ray: Annotated[tuple[str, ...] | None, arg(metavar="[ADDRESS]", help_behavior_hint="")] = None
    """Let a Ray cluster do it: the one at ADDRESS or in RAY_ADDRESS, else one of this machine alone. Put it last."""
    ray_workers: MaybeInt = None
    """Processes on the cluster; by default one per GPU, else one per CPU."""

    def check(self) -> None:
        if self.ray is not None and len(self.ray) > 1:
            raise ValueError(f"--ray takes one address, got {' '.join(self.ray)}; put it last")
        if self.ray is None and self.ray_workers is not None:
            raise ValueError("--ray-workers goes with --ray")


@dataclass(kw_only=True)
class ShardOptions(RayOptions):
    """One of many processes that share the work through a folder, or a cluster that does it all."""

    shard: Annotated[str | None, arg(metavar="I/N", help_behavior_hint="")] = None
    """Do only share I of N, from 1/N to N/N; what is complete is skipped. monopose merge OUT puts all together."""


@dataclass(kw_only=True)
class TrainingOptions:
    """How long and how training goes."""

    minutes: MaybeFloat = None
    """Wall-clock budget in minutes, pauses not counted; none: until all steps are done."""
    steps: MaybeInt = None
    """Most optimiser steps; by default as published for presets that are, 40000 for others."""
    batch_size: MaybeInt = None
    """Samples per step and process; by default as published for presets that are, 16 for others."""
    lr: MaybeFloat = None
    """Peak learning rate; by default what suits the method and preset."""
    workers: int = 1
    """Processes that draw samples."""
    accumulate: int = 1
    """Batches whose gradients are added up for one step."""
    compile: Flag = False
    """Compile the network (torch.compile): minutes of start, then faster steps on GPUs."""
    seed: int = 0
    """Of all randomness."""


@dataclass(kw_only=True)
class TrainCommand(Common):
    """What training takes, whatever is trained."""

    out: MaybePath = None
    """Run folder, shared by the methods of one run; runs/NAME OF THE DATA by default."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind what is drawn; procedural ones otherwise."""
    set: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Fields of the method's configuration, as NAME=VALUE with a JSON value: --set input_size=96 'backbone="resnet18"'."""
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def run_folder(self, data: str | Path) -> Path:
        """Where the run goes: --out, or the folder in runs/ that is called as the data."""
        return self.out or Path("runs") / Path(data).resolve().name

    def changes(self) -> dict[str, Any]:
        """The fields of --set: JSON values; bare words are text."""
        values: dict[str, Any] = {}
        for item in self.set:
            name, found, text = item.partition("=")
            if not found:
                raise ValueError(f"--set expects NAME=VALUE, got {item!r}")
            try:
                values[name.replace("-", "_")] = json.loads(text)
            except json.JSONDecodeError:
                values[name.replace("-", "_")] = text
        return values

    def budget(self) -> dict[str, Any]:
        """The training options that were given, as `loop.TrainConfig` takes them."""
        return {name: value for name, value in asdict(self.training).items() if value is not None}


def refuse(options: Any, reason: str) -> None:
    """ValueError if an option of a group is given, that is, differs from its default."""
    for f in fields(options):
        if getattr(options, f.name) != f.default:
            raise ValueError(f"--{f.name.replace('_', '-')} {reason}")


def check_source(source: str | None, data: Path | None, name: str, boxes: Sequence[str] = ()) -> None:
    """ValueError unless there is either a source of pictures or a data set, option `name`."""
    if (source is None) == (data is None):
        if source is None and boxes and Path(boxes[-1]).suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f"{boxes[-1]} was taken for a box; put the SOURCE before --boxes")
        raise ValueError(f"give either a SOURCE (image, folder, video, camera number) or --{name} DIR")


def check_shared(sharing: ShardOptions, source: str | None) -> None:
    """ValueError if shards are asked for of a source whose pictures cannot be listed; FileNotFoundError if it is not there."""
    shared = sharing.shard is not None or sharing.ray is not None
    if shared and source is not None and not Path(source).is_dir() and not packed_files(source):
        if not Path(source).exists() and not source.isdecimal() and "://" not in source:
            raise FileNotFoundError(f"no folder of pictures, tar or Parquet file at {source}")
        raise ValueError(f"--shard and --ray need a folder of pictures, a tar or a Parquet file as SOURCE, got {source}")


def check_share(value: float | None, name: str) -> None:
    """ValueError unless the option `name` lies between 0 and 1."""
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"--{name} must be between 0 and 1, got {value:g}")


# ------------------------------------------------------------------------------------------------------ results, pictures

SAVED_EVERY_S = 60.0  # seconds of work that a killed prediction loses at most
DRAWN_FOV = 50.0  # horizontal field of view in degrees that pictures get whose camera is not known
Printer = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What a command did.

    Args:
        data: for programs, in plain values; "stopped" in it says that somebody interrupted the command.
        words: the same for people, without what was printed in between.
    """

    data: dict[str, Any]
    words: str

    def as_dict(self) -> dict[str, Any]:
        return self.data

    def text(self) -> str:
        return self.words


def silent(line: str) -> None:
    """Say nothing."""


def shared_settings(source: str | None, camera: CameraOptions, boxes: Sequence[str] = ()) -> dict[str, Any]:
    """What shards have to agree on that predict pictures: which pictures, which camera, which boxes."""
    of = digest_of_pictures(source) if source is not None else ""
    return {"source": of, "camera": asdict(camera), "boxes": [Path(word) for word in boxes]}


Pictures = Iterator[tuple[str, "Callable[[], Frame]"]]


def frames(source: str, camera: CameraOptions, default_fov: float | None = None) -> Pictures:
    """`images.listed_frames`; pictures whose camera is not known get the field of view `default_fov`, degrees."""
    from .io.images import listed_frames

    fov = camera.fov if camera.known else default_fov
    return listed_frames(source, camera.camera, fov_deg=fov, resize_camera=camera.resize_camera)


def predict_pictures(
    pictures: Pictures,
    one: Callable[[str, Frame], tuple[dict[str, Any], Sequence[str]]],
    save: Callable[[list[dict[str, Any]]], dict[str, Any]],
    summary: Callable[[dict[str, Any]], str],
    output: OutputOptions,
    say: Printer = silent,
    shard: shards.Shard | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Look at picture after picture. What came before an interruption, or before an error, is kept.

    Args:
        pictures: names, and functions that read the frames.
        one: looks at a picture; returns its record and what to say of it, line by line.
        save: writes the records of all so far; returns what the result says beside them. Called once a minute, too.
        summary: the result in words.
        output: where results go, in a folder into which no other process may write meanwhile, shards apart; how many pictures
            at most; whether one that cannot be read ends it all.
        say: takes each line as soon as it is known.
        shard: only the pictures of this one, whose records wait in `output.folder` for `shards.MERGE`; `save` may then know
            records alone.
        settings: of which the records depend, for shards.

    Returns:
        what `save` returned, the records as "images", how many could not be read as "unreadable", and whether somebody
        interrupted as "stopped": the way to end a live camera. Of records only `save` sees keys that begin with "_".

    Raises:
        OSError: another process writes into the folder.
    """
    records: list[dict[str, Any]] = []
    unreadable: list[str] = []
    stopped, saved = False, time.monotonic()

    def looked(name: str, read: Callable[[], Frame]) -> dict[str, Any] | str:
        try:
            frame = read()
        except Unreadable as error:
            if output.strict:
                raise
            say(f"{name}: cannot be read")
            return str(error)
        record, lines = one(name, frame)
        for line in lines:
            say(line)
        return record

    def keep(row: dict[str, Any] | str) -> None:
        unreadable.append(row) if isinstance(row, str) else records.append(row)

    job = None
    share = shard is not None and not shard.last
    with nullcontext() if share else sole_writer(output.folder, "predict"):
        try:
            if shard is None:
                for name, read in islice(pictures, output.limit):
                    keep(looked(name, read))
                    if records and time.monotonic() - saved > SAVED_EVERY_S:
                        save(records)
                        saved = time.monotonic()
            else:
                listed = list(islice(pictures, output.limit))
                about = {"pictures": [name for name, _ in listed], **(settings or {})}
                job = shards.Job(output.folder / shards.FOLDER / "pictures", about, len(listed), 20, shard)
                for block, pieces in job.todo():
                    job.save(block, [looked(*listed[i]) for i in pieces])
                if share:
                    return shard_result(shard, output.folder)
                for row in job.rows():
                    keep(row)
        except KeyboardInterrupt:
            if shard is not None:
                raise
            stopped = True
        except Exception:
            if records:
                save(records)
            raise
        if unreadable and not records:
            many = f"none of {len(unreadable)} pictures can be read; the first: "
            raise Unreadable(many * (len(unreadable) > 1) + unreadable[0])
        file = output.folder / "unreadable.txt"
        if list_unreadable(file, unreadable):
            count = len(unreadable) + len(records)
            warnings.warn(f"{len(unreadable)} of {count} pictures cannot be read; listed in {file}", stacklevel=2)
        shown = [{k: v for k, v in record.items() if not k.startswith("_")} for record in records]
        data = {**save(records), "images": shown, "unreadable": len(unreadable), "stopped": stopped}
        if job is not None:
            job.remove()
    return Result(data, summary(data))


def shard_result(shard: shards.Shard, out: Path) -> Result:
    """What a command says that did a share of the work."""
    name, then = f"{shard.index}/{shard.count}", f"monopose merge {out}"
    return Result({"shard": name, "next": then}, f"shard {name} is complete; when all are: {then}")


def boxes_of_anything(boxes: Sequence[str]) -> Callable[[str], Detections]:
    """`io.boxes.read_boxes` where any object is an object: its number means nothing."""
    from .io.boxes import read_boxes

    file = len(boxes) == 1 and Path(boxes[0]).suffix.lower() == ".json"
    return read_boxes(boxes, range(100_000) if file else (1,))


def check_mask(mask_size: Sequence[int], name: str, image_size: Sequence[int]) -> None:
    """ValueError if a mask is of another (height, width) than the picture of that name."""
    if tuple(mask_size) != tuple(image_size):
        (height, width), (h, w) = mask_size, image_size
        raise ValueError(
            f"the mask is {width} x {height} pixels (width x height), {name} is {w} x {h}; it must belong to the same picture"
        )


def save_picture(path: Path, picture: Image.Image) -> Path:
    """Write a PNG whole or not at all."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
    return path
