"""`monopose export`: the networks of a run as ONNX files, what goes in and comes out of them in a JSON file, and a program of
one file that finds poses with them, without torch and without monopose.

What is exported is what tensors go through: the networks. Cutting pictures, PnP, rendering and fitting stay outside; the JSON
file says what has to be done, and the program does it for runs of object coordinates.
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__, runs, weights
from ..exported import INDEX, OnnxNet, missing_library
from ..io.files import ASSETS, atomic_write, digest_of, sole_writer, write_json
from ..objects import coordinates, probabilistic, search, silhouettes
from ..objects import pipeline as objects

CONSUMER = ASSETS / "onnx" / "predict.py"
TOLERANCE = 1e-4  # between torch and onnxruntime, relative to values above 1
RARELY = 1e-3  # share of values that may differ by more: a coordinate jumps where two bins are equally likely
BATCH = "batch"  # name of the dimension that is free
PICTURE = "RGB in [0, 1], float32; no further normalisation: the network does its own"


class Part(NamedTuple):
    """A function of a network to write: `call(*inputs)` gives tensors, or named tuples of them.

    `inputs` names each with its shape, where "batch" is free, and what it is; `outputs` says what each is, in
    the order in which they come. `about` is what else a user of the file has to know.
    """

    network: nn.Module
    call: Callable[..., Any]
    inputs: Mapping[str, tuple[tuple[int | str, ...], str]]
    outputs: dict[str, str]
    about: dict[str, Any]


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Args:
        out: the folder.
        parts: name -> file, its megabytes, largest difference from torch.
        left_out: name -> why it is not there.
        program: the program of one file that uses them, or None.
    """

    out: str
    parts: dict[str, dict[str, Any]]
    left_out: dict[str, str] = field(default_factory=dict)
    program: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [
            f"{name}: {part['file']}, {part['megabytes']:.1f} MB, within {part['largest_difference']:.1g} of torch"
            for name, part in self.parts.items()
        ]
        lines += [f"{name} is left out: {why}" for name, why in self.left_out.items()]
        lines.append(f"inputs, outputs and units: {Path(self.out) / INDEX}")
        if self.program is not None:
            lines.append(f"without torch: python {self.program} photo.jpg camera.json")
        return "\n".join(lines)


def export(name: str | Path, out: str | Path | None = None) -> ExportReport:
    """Write the networks of a run as ONNX.

    Each file is run by onnxruntime at once and compared with torch; one that differs is left out, as is what torch cannot
    export, with the reason.

    Args:
        name: a run folder, a weights file in one, or the name of bundled weights.
        out: folder for PART.onnx, model.json and predict.py; None: `onnx` in the run folder, where `--runtime onnx` looks.

    Raises:
        FileNotFoundError, ValueError: no such run; a category run; nothing of it can be exported.
        ModuleNotFoundError: onnx, onnxscript or onnxruntime are not installed.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(library) is None:
            raise missing_library(library)
    folder, family = weights.find_run(name), runs.family_of(name) or "objects"
    if family == "category":
        raise ValueError(
            f"{folder} is a category run, which finds a pose by hundreds of gradient steps through its network: that is no "
            "graph; exported are runs of known objects, viewpoints and boxes on roads"
        )
    out = folder / "onnx" if out is None else Path(out)
    run = runs.load(name, "cpu") if family != "objects" else objects.load(name, "cpu", runtime="torch")
    made: dict[str, Part | str] = {"objects": _objects, "viewpoint": _viewpoint, "road": _road}[family](run)
    parts: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    described: dict[str, Any] = {}
    with sole_writer(out, "export"):
        (out / INDEX).unlink(missing_ok=True)  # it names the files that fit together: the last to come, the first to go
        for part_name, part in made.items():
            if isinstance(part, str):
                left_out[part_name] = part
                continue
            path = out / f"{part_name}.onnx"
            try:
                difference = _write(part, path)
            except ValueError as error:
                left_out[part_name] = str(error)
                continue
            megabytes = path.stat().st_size / 1e6
            parts[part_name] = {"file": path.name, "megabytes": megabytes, "largest_difference": difference}
            described[part_name] = {"file": path.name, **_described(part)}
        if not parts:
            raise ValueError(f"nothing of {folder} can be exported: {'; '.join(f'{k}: {v}' for k, v in left_out.items())}")
        program = None
        if {"detector", "coordinates"} <= set(parts):
            program = str(out / CONSUMER.name)
            with atomic_write(program) as temporary:
                shutil.copyfile(CONSUMER, temporary)
        digests = weights.digests(folder)
        if (base := weights.base("silhouettes")) is not None:
            digests = {"silhouettes": digest_of(base)} | digests  # a run without its own has those of the base
        index = {
            "format": "monopose onnx 1", "monopose": __version__, "run": str(folder), "family": family,
            "weights": digests, "pictures": PICTURE,
            "pixels": "(u, v), centres at integers; boxes are x0, y0, x1, y1 on pixel edges, the picture 0, 0, width, height",
            "poses": "metres, OpenCV camera: x right, y down, z forward", **_knowledge(run), "parts": described,
            "left_out": left_out,
        }  # fmt: skip
        write_json(out / INDEX, index)
    return ExportReport(str(out), parts, left_out, program)


# ------------------------------------------------------------------------------------------------------- what there is


def _objects(run: objects.Pipeline) -> dict[str, Part | str]:
    estimator, parts = run.estimator, dict[str, Part | str]()
    if run.detector is not None and run.detector.config.two_stage:
        parts["detector"] = "Mask R-CNN chooses its regions in loops over what it finds; the one-stage detector can be exported"
    elif run.detector is not None:
        looks = run.detector.config
        cells = f"h = {looks.image_height // 4} x w = {looks.image_width // 4} cells of 4 pixels"
        parts["detector"] = Part(
            run.detector.net, run.detector.net,
            {"images": ((BATCH, 3, *looks.size), f"letterboxed pictures, {PICTURE}")},
            {
                "heat": f"(batch, K, h, w), logits of: the centre of an object of this class lies in this cell; {cells}",
                "distances": "(batch, K, 4, h, w), log of the distances from the cell's centre to left, top, right, bottom of "
                "the whole object's box, cells",
                "semantic": "(batch, K + 1, h, w), logits of the visible surface: background, then the classes",
                "votes": "(batch, 2, h, w), from the cell's centre to the centre of the object it shows, cells (x, y)",
            },
            {
                "obj_ids": list(looks.obj_ids), "stride": 4,
                "preprocessing": "resized to fit, bilinear with antialiasing (the filter widens as it shrinks), put into the "
                "upper left corner, the rest filled with 0.5",
            },
        )  # fmt: skip
    if isinstance(estimator, search.Model):
        parts["search"] = (
            "poses are searched for by drawing the CAD models, which is no graph; silhouettes, its network, is exported"
        )
    else:
        parts["probabilistic" if isinstance(estimator, probabilistic.Model) else "coordinates"] = _estimator(estimator)
    if run.silhouettes is not None and run.models:
        side = run.silhouettes.config.input_size
        parts["silhouettes"] = Part(
            run.silhouettes, run.silhouettes,
            {"images": ((BATCH, 3, side, side), f"square crops around the object where its pose has it, {PICTURE}"),
             "drawn": ((BATCH, 5, side, side), "the CAD model drawn there: silhouette, depth behind its middle in radii, RGB "
                       "under a headlight; 0 beside it")},
            {"amodal": f"(batch, {side // 2}, {side // 2}), logit of: the object is there, seen or hidden",
             "visible": f"(batch, {side // 2}, {side // 2}), logit of: the pixel shows the object",
             "field": f"(batch, 3, {side // 2}, {side // 2}), where a drawn pixel has gone: x and y in units of "
             f"{silhouettes.UNIT:g} pixels of that map, logarithm of the deviation of both in these units"},
            {"crop_scale": run.silhouettes.config.crop_scale},
        )  # fmt: skip
    if run.refiner is not None:
        refiner = run.refiner
        parts["refiner_features"] = Part(
            refiner.features, refiner.features,
            {"images": ((BATCH, 3, refiner.config.crop_size, refiner.config.crop_size), f"square crops, {PICTURE}"),
             "index": ((BATCH,), f"int64, position in {list(refiner.config.obj_ids)}, -1 for other objects")},
            {"features": f"(batch, {refiner.config.features}, s / 4, s / 4), of mean square 1 at every place"},
            {"preprocessing": "the object rendered at a pose, and the photo cut around it: both go through this network"},
        )  # fmt: skip
        parts["refiner"] = (
            "between its steps it renders the CAD model and solves for the pose, which is no graph; refiner_features, its "
            "largest network, is exported"
        )
    return parts


def _estimator(estimator: coordinates.Model | probabilistic.Model) -> Part:
    config, classes = estimator.config, len(estimator.config.obj_ids)
    side, h = config.input_size, config.output_size
    inputs = {
        "images": ((BATCH, 3, side, side), f"square crops, {PICTURE}"),
        "index": ((BATCH,), f"int64, 0 to {classes - 1}: the position of the object in `objects`"),
    }
    coordinates = f"(batch, 3, {h}, {h}), normalised: metres in the object's frame = value x scale + centre of the object"
    about = {
        "crop_scale": config.crop_scale, "output_size": h,
        "preprocessing": f"the square around the box's centre, {config.crop_scale:g} x its longer side, bilinear; where it "
        "shrinks by more than 1.5, averaged over an odd number of pixels first; 0.5 outside the picture",
    }  # fmt: skip
    if isinstance(estimator, probabilistic.Model):
        unit = "photo" if estimator.config.legacy_weights else "grid"
        outputs = {
            "coordinates": coordinates,
            "logits": f"(batch, 2, {h}, {h}), of the weights of u and v: their softmax over the pixels x scale",
            "scale": f"(batch, 2), sum of the weights of u and v, 1 / {unit} pixels",
        }
    else:
        outputs = {
            "coordinates": coordinates,
            "error": f"(batch, {h}, {h}), logit of the expected error of the coordinates, in [0, 1]",
            "visible": f"(batch, {h}, {h}), logit of: the pixel shows the object",
        }
        if estimator.config.amodal_weight > 0 and not estimator.config.published:
            outputs["whole"] = f"(batch, {h}, {h}), logit of: the object is there, seen or hidden"
    return Part(estimator, lambda *given: estimator.at_index(*given)._replace(bins=None), inputs, outputs, about)


def _viewpoint(run: Any) -> dict[str, Part | str]:
    config, model = run.config, run.model
    outputs = {"logits": "(batch, 3, 8), of each bin of azimuth, elevation, in-plane rotation"}
    if config.offsets:
        outputs["offsets"] = "(batch, 3, 8), of the angle from the middle of each bin, bin widths"
    if config.halves:
        outputs["halves"] = "(batch, 3, 16), logits of half bins, of which `logits` are logarithms of sums"
    channels = "RGB, mask, boundaries, normals (3; (n + 1) / 2)"
    side = config.input_size
    about = {
        "crop_scale": config.crop_scale, "bins": config.bins, "mirror": config.mirror,
        "bin_widths_rad": [b.width for b in model.bins],
        "first_bin_rad": [float(b.centre(torch.tensor(0.0))) for b in model.bins],
        "preprocessing": f"the square around the box's centre, {config.crop_scale:g} x its longer side"
        + ("; the answer is the mean of this and of the mirrored crop's, mirrored back" * config.mirror),
    }  # fmt: skip
    inputs = {"images": ((BATCH, model.channels, side, side), f"the first {model.channels} channels of: {channels}; in [0, 1]")}
    parts: dict[str, Part | str] = {"viewpoint": Part(model, model, inputs, outputs, about)}
    if run.normals is not None:
        parts["normals"] = "it runs crop by crop at a size of its own; give normals from elsewhere, or predict with monopose"
    return parts


def _road(run: Any) -> dict[str, Part | str]:
    from ..road.pyramid import Cells

    config, model = run.config, run.model.eval()
    with torch.no_grad():
        output = model(torch.zeros(1, 3, *config.size))
    names = [name for name, value in zip(Cells._fields, output.cells) if value is not None]
    where = output.lattice
    meaning = {
        "logits": "(batch, L, classes), of: an object of this class has its centre in this cell",
        "centerness": "(batch, L), logits",
        "offsets": "(batch, L, classes or 1, 2), from the cell's centre to the object's reference point, strides",
        "embedding": "(batch, L, C), of the object, for the closer look",
        "edges": "(batch, L, 4), from the cell's centre to left, top, right, bottom of the box in the picture, strides",
    }

    def dense_part(given: Tensor) -> tuple[Tensor, ...]:
        found = model(given)
        return (*(v for v in found.cells if v is not None), found.dense.key, found.dense.value)

    about = {
        "classes": list(config.classes), "attributes": list(config.attributes), "focal": config.focal,
        "cell_centres_px": where.centres.tolist(), "cell_strides_px": where.strides.tolist(),
        "preprocessing": "as wide as the network, what is too high cut off at the top, what is missing filled with 0.5 below",
    }  # fmt: skip
    parts: dict[str, Part | str] = {
        "box3d": Part(
            model, dense_part,
            {"images": ((BATCH, 3, *config.size), f"pictures, {PICTURE}")},
            {n: meaning[n] for n in names} | dict.fromkeys(("key", "value"), "(batch, C, h, w), what the closer look samples"),
            about,
        )
    }  # fmt: skip
    parts["objects"] = (
        "torch's exporter fixes the number of objects in the closer look at cells to that of its example; the cells and the "
        "maps that it samples are exported"
    )
    return parts


def _knowledge(run: Any) -> dict[str, Any]:
    """What a run of known objects knows about them, and what its scores mean."""
    if not isinstance(run, objects.Pipeline):
        return {}
    network, found = run.estimator, run.calibration
    rows = zip(network.config.obj_ids, network.centre.tolist(), network.scale.tolist(), network.corners.tolist(), strict=True)
    known = [{"id": i, "name": run.names[i], "centre_m": c, "scale_m": s, "corners_m": k} for i, c, s, k in rows]
    if found is None or found.detector is None:
        return {"objects": known, "calibration": None}
    kind = type(found.detector).__name__.lower()
    return {"objects": known, "calibration": {"looks": found.looks, kind: asdict(found.detector)}}  # type: ignore[call-overload]


# ------------------------------------------------------------------------------------------------------------- writing


class _Graph(nn.Module):
    """The function of a part as a module, whose parameters the exporter finds."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.network, self.call = part.network, part.call

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(_flat(self.call(*given)))


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [tensor for item in value for tensor in _flat(item)]


def _examples(part: Part, batch: int) -> tuple[Tensor, ...]:
    """Inputs of random values; integers are 0, which every index may be."""
    made = []
    for shape, meaning in part.inputs.values():
        size = [batch if d == BATCH else int(d) for d in shape]
        made.append(torch.zeros(size, dtype=torch.int64) if meaning.startswith("int64") else torch.rand(size))
    return tuple(made)


def _write(part: Part, path: Path) -> float:
    """Write a file and compare it with torch; returns the largest difference. ValueError: says why it is not there."""
    graph = _Graph(part).eval()
    free = tuple({0: torch.export.Dim(BATCH)} for _ in part.inputs)
    with torch.no_grad():
        graph(*_examples(part, 2))  # what is computed once and kept must not be met by the exporter, whose tensors are empty
    with atomic_write(path) as temporary:
        try:
            # both talk to the terminal whatever `verbose` says
            with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    graph, _examples(part, 2), str(temporary), input_names=list(part.inputs), output_names=list(part.outputs),
                    dynamic_shapes=(free,), dynamo=True, external_data=False, verbose=False,
                )  # fmt: skip
        except Exception as error:  # its kinds are private to the exporter
            first = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"torch cannot export it as a graph ({first.strip()[:160]})") from error
        return _difference(graph, part, temporary)


def _difference(graph: nn.Module, part: Part, path: Path) -> float:
    """The largest difference between torch and the file, at batches of one and three."""
    net, largest = OnnxNet(path), 0.0
    for batch in (1, 3):
        given = _examples(part, batch)
        with torch.no_grad():
            wanted = graph(*given)
        try:
            outputs = net(*given)
        except Exception as error:  # its kinds are private to onnxruntime
            raise ValueError(f"onnxruntime does not run its file ({' '.join(str(error).split())[:160]})") from error
        for name, a, b in zip(part.outputs, wanted, outputs, strict=True):
            away = ((a - b).abs() / a.abs().clamp_min(1)).flatten()
            if a.shape != b.shape or float((~(away <= TOLERANCE)).float().mean()) > RARELY:
                raise ValueError(f"its file does not say the same as torch: {name} differs by {float(away.max()):.2g}")
            largest = max(largest, float(away[away <= TOLERANCE].max()))
    return largest


def _described(part: Part) -> dict[str, Any]:
    inputs = {
        name: {"shape": list(of), "dtype": "int64" if what.startswith("int64") else "float32", "meaning": what}
        for name, (of, what) in part.inputs.items()
    }
    return {"inputs": inputs, "outputs": part.outputs, **part.about}
