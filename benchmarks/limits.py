"""What limits the accuracy on real photos: every stage's output is replaced by the truth, one after the other.

    python -m benchmarks.limits --data DATA/lmo --targets TARGETS --model weights/lmo

prints, for each replacement, AR (mean of MSSD and MSPD) and ADD(-S) 0.1 d: what perfect boxes, masks, coordinates, rotations or
translations would be worth. True masks and coordinates are rendered from the true poses. With `--boxes` it says only how well
the detector's boxes fit: of each target, the overlap (IoU, amodal) of the best-scored box of its class, and of the best one.
With `--silhouettes` it says only how well the predicted whole silhouettes fit in true boxes, by the share of the object that is
seen. With `--annotation` it says only by how much the photo disagrees with the true poses themselves: the network of the
silhouettes starts from each of them and goes where it sees the outline; pictures with exact truth show its own error.
`--half 0` and `--half 1` take every second photo.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

import monopose
from monopose.contour.align import align
from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes as bop_scenes
from monopose.evaluation import bop as bop_evaluation
from monopose.geometry import boxes as box_ops
from monopose.geometry import camera as camera_ops
from monopose.geometry import rotation, se3
from monopose.objects import coordinates
from monopose.objects import silhouettes as outlines
from monopose.objects.bop_pipeline import truth_as_detections
from monopose.objects.pipeline import Pipeline
from monopose.render import maps, raster, scene
from monopose.types import Detections, Frame, PoseEstimates

WHOLE = 0.95  # visible share of an object whose annotation is looked at
FINE = 4  # samples of a true silhouette along each side of a pixel

Rows = dict[str, list[bop_results.Results]]


def true_maps(found: coordinates.Correspondences, frame: Frame, run: Pipeline, row: int) -> tuple[Tensor, Tensor]:
    """Coordinates (h, w, 3) and visible mask (h, w) that a perfect network would have given for this crop."""
    truth = frame.instances
    assert truth is not None
    side = found.mask.shape[-1]
    K = camera_ops.crop_resize_K(frame.camera.K, found.box, (side, side))
    models = [run.models[int(i)] for i in truth.labels]
    masks = scene.render_masks(models, truth.cam_from_obj, K, (side, side)).masks_visible
    model = models[row]
    points = model.vertices @ truth.cam_from_obj[row, :3, :3].T + truth.cam_from_obj[row, :3, 3]
    fragments = raster.rasterize(points[None], model.faces, K, (side, side))
    return maps.coordinates(fragments, model.faces, model.vertices)[0], masks[row]


def first_looks(
    run: Pipeline, frame: Frame, detections: Detections
) -> tuple[list[coordinates.Correspondences], Tensor, Tensor]:
    """What the network says of the crops of true boxes, and the true whole and visible silhouettes there, (B, h, h)."""
    truth, config = frame.instances, run.estimator.config
    assert truth is not None
    looks = coordinates.correspond(
        run.estimator, frame.image, detections.labels, box_ops.square(detections.boxes, config.crop_scale)
    )
    models, whole, seen = [run.models[int(i)] for i in truth.labels], [], []
    for look in looks:
        side, row = FINE * look.mask.shape[-1], int((truth.labels == look.label).nonzero()[0, 0])
        K = camera_ops.crop_resize_K(frame.camera.K, look.box, (side, side))
        drawn = scene.render_masks(models, truth.cam_from_obj, K, (side, side))
        for masks, kept in ((drawn.masks_full, whole), (drawn.masks_visible, seen)):
            kept.append(F.avg_pool2d(masks[row][None].float(), FINE)[0])
    return looks, torch.stack(whole), torch.stack(seen)


def silhouettes(run: Pipeline, frame: Frame, wanted: set[int]) -> list[tuple[float, float, float]]:
    """Of each wanted object: the share of it that is seen, and of its predicted silhouette IoU and logarithm of the area over
    the true one's."""
    detections = truth_as_detections(frame.instances, wanted)
    if not len(detections):
        return []
    rows = []
    for look, whole, seen in zip(*first_looks(run, frame, detections), strict=True):
        found, true = look.amodal > 0.5, whole > 0.5
        area = max(float(true.sum()), 1.0)
        iou = float((found & true).sum()) / max(float((found | true).sum()), 1.0)
        rows.append((float(seen.sum() / whole.sum().clamp_min(1)), iou, math.log(max(float(found.sum()), 1.0) / area)))
    return rows


def disagreement(run: Pipeline, frame: Frame, wanted: set[int]) -> list[tuple[int, float, float, float, float]]:
    """Of each wanted object of which more than `WHOLE` is seen: its id, and by how much the pose that the outline leads to
    differs from the true one: middle to the right and down, pixels; distance, per cent; rotation, degrees."""
    truth = frame.instances
    assert truth is not None
    assert run.silhouettes is not None
    whole = truth.visibility if truth.visibility is not None else torch.ones(len(truth))
    rows = [i for i, label in enumerate(truth.labels.tolist()) if label in wanted and whole[i] > WHOLE]
    if not rows:
        return []
    true = truth.cam_from_obj[rows]
    moved = outlines.predict(
        run.silhouettes, frame, PoseEstimates(truth.labels[rows], true, torch.ones(len(rows))), run.models
    ).cam_from_obj
    found = []
    for label, before, after in zip(truth.labels[rows].tolist(), true, moved, strict=True):
        middle = run.models[label].bounds.mean(0)[None]
        a, b = se3.transform(before, middle), se3.transform(after, middle)
        shift = (camera_ops.project(b, frame.camera.K) - camera_ops.project(a, frame.camera.K))[0].tolist()
        turned = rotation.angle_between(before[:3, :3], after[:3, :3])
        found.append((label, *shift, 100 * (float(b[0, 2] / a[0, 2]) - 1), math.degrees(float(turned))))
    return found


def substituted(run: Pipeline, frame: Frame, seconds: Rows, key: tuple[int, int], wanted: set[int]) -> None:
    """Add the results of one photo under every replacement."""
    truth = frame.instances
    assert truth is not None

    def keep(name: str, poses: PoseEstimates) -> None:
        asked = torch.tensor(sorted(wanted))
        poses = poses[(poses.labels[:, None] == asked).any(1)]
        seconds.setdefault(name, []).append(bop_results.results_of(poses, *key))

    if run.detector is not None:
        keep("our detector", run.predict(frame, refine=False))
    detections = truth_as_detections(truth, wanted)
    poses, stages = coordinates.predict_traced(run.estimator, frame, detections)
    keep("true boxes", poses)

    contoured = coordinates.predict(run.estimator, frame, detections, models=run.models)
    keep("+ predicted silhouettes", contoured)
    if run.silhouettes is not None:
        keep("+ silhouettes beside the drawn pose", outlines.predict(run.silhouettes, frame, contoured, run.models))
    if len(poses):
        looks, whole, seen = first_looks(run, frame, detections)
        known = [run.models[i] for i in poses.labels.tolist()]
        information = coordinates.information(poses.covariance)
        boxes = torch.stack([f.box for f in looks])
        rows = [int((detections.labels == label).nonzero()[0, 0]) for label in poses.labels]
        moved = align(poses.cam_from_obj, whole[rows], seen[rows], frame.image, boxes[rows], frame.camera.K, known, information)
        keep("+ true silhouettes", replace(poses, cam_from_obj=moved.cam_from_obj))

    by_label = {int(i): row for row, i in enumerate(truth.labels)}
    exact = [true_maps(f, frame, run, by_label[f.label]) for f, _ in stages]
    replacements: dict[str, Callable[[coordinates.Correspondences, Tensor, Tensor], coordinates.Correspondences]] = {
        "+ true visible mask": lambda f, xyz, mask: f._replace(mask=mask.float()),
        "+ true coordinates": lambda f, xyz, mask: f._replace(
            coordinates=torch.where((xyz != 0).any(-1, keepdim=True), xyz, f.coordinates)
        ),
        "+ true mask and coordinates": lambda f, xyz, mask: f._replace(
            coordinates=xyz, mask=mask.float(), error=torch.zeros_like(f.error)
        ),
    }
    for name, replaced in replacements.items():
        solved = [coordinates.solve(replaced(f, *e), frame.camera) for (f, _), e in zip(stages, exact)]
        rows = [i for i, s in enumerate(solved) if s.success]
        labels = torch.tensor([stages[i][0].label for i in rows], dtype=torch.int64)
        found = torch.stack([solved[i].cam_from_obj for i in rows]) if rows else torch.zeros(0, 4, 4)
        keep(name, PoseEstimates(labels, found, torch.ones(len(rows))))

    for name, part in (("true translation", (slice(0, 3), 3)), ("true rotation", (slice(0, 3), slice(0, 3)))):
        moved = poses.cam_from_obj.clone()
        for i, label in enumerate(poses.labels.tolist()):
            moved[i][part] = truth.cam_from_obj[by_label[label]][part]
        keep(f"+ {name}", PoseEstimates(poses.labels, moved, poses.scores))
    distance = poses.cam_from_obj.clone()
    for i, label in enumerate(poses.labels.tolist()):
        t, true = distance[i, :3, 3], truth.cam_from_obj[by_label[label], :3, 3]
        distance[i, :3, 3] = t * true.norm() / t.norm()
    keep("+ true distance along the ray", PoseEstimates(poses.labels, distance, poses.scores))


def overlaps(run: Pipeline, frame: Frame, wanted: set[int]) -> list[tuple[float, float]]:
    """For each wanted object, the IoU of the best-scored detection of its class, and the largest of all of its class."""
    truth = frame.instances
    assert truth is not None
    found = run.detect(frame)
    rows = []
    for label, box in zip(truth.labels.tolist(), truth.boxes, strict=True):
        if label in wanted:
            iou = box_iou(box[None].float(), found.boxes[found.labels == label])[0].tolist() or [0.0]
            rows.append((iou[0], max(iou)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a BOP data set with test/ and true poses")
    parser.add_argument("--model", type=Path, required=True, help="a run folder with coordinates.safetensors")
    parser.add_argument("--targets", type=Path, help="targets file; default: test_targets_bop19.json")
    parser.add_argument("--boxes", action="store_true", help="only how well the detector's boxes fit")
    parser.add_argument("--silhouettes", action="store_true", help="only how well predicted silhouettes fit")
    parser.add_argument("--annotation", action="store_true", help="only how far the true poses are from what the photo shows")
    parser.add_argument("--half", type=int, choices=(0, 1), help="every second photo, from this one on; default: all")
    args = parser.parse_args()
    models = args.data / "models"
    run = monopose.load(args.model, models=models if models.is_dir() else None)
    targets_file = args.targets or args.data / "test_targets_bop19.json"
    targets = bop_scenes.read_targets(targets_file)
    wanted: dict[tuple[int, int], set[int]] = {}
    known = set(run.estimator.config.obj_ids)
    for s, i, o in zip(targets.scene_id.tolist(), targets.im_id.tolist(), targets.obj_id.tolist()):
        wanted.setdefault((s, i), set()).update({o} & known)
    scenes = {s: bop_scenes.open_scene(args.data / "test" / f"{s:06d}") for s, _ in wanted}
    results: Rows = {}
    keys = sorted(wanted)
    keys = keys if args.half is None else keys[args.half :: 2]
    kept = set(keys)
    rows = [k in kept for k in zip(targets.scene_id.tolist(), targets.im_id.tolist())]
    asked = type(targets)(*(None if column is None else column[rows] for column in targets))
    frames = ((bop_scenes.read_frame(scenes[s], i, masks=False, depth=False), wanted[s, i]) for s, i in keys)
    if args.annotation:
        differences = [d for frame, asked_for in frames for d in disagreement(run, frame, asked_for)]
        for label in sorted({d[0] for d in differences}):
            some = list(zip(*(d[1:] for d in differences if d[0] == label), strict=True))
            x, y, z, turn = (statistics.median(column) for column in some)
            size = statistics.median(math.hypot(a, b) for a, b in zip(some[0], some[1], strict=True))
            print(
                f"object {label:3d}, {len(some[0]):3d} times: median shift {x:+.1f} {y:+.1f} px (length {size:.1f}), distance "
                f"{z:+.1f} %, rotation {turn:.1f} degrees"
            )
        return
    if args.silhouettes:
        found = [o for frame, asked_for in frames for o in silhouettes(run, frame, asked_for)]
        for low, high in ((0.0, 1.01), (0.95, 1.01), (0.0, 0.95)):
            some = [o for o in found if low <= o[0] < high]
            if some:
                _, iou, area = (statistics.median(column) for column in zip(*some, strict=True))
                seen_by = f"seen by {low:.0%} to {min(high, 1):.0%}"
                print(f"{len(some):4d} targets, {seen_by}: median IoU {iou:.3f}, area {math.exp(area) - 1:+.1%}")
        return
    if args.boxes:
        seen = [o for frame, asked_for in frames for o in overlaps(run, frame, asked_for)]
        for name, values in zip(("best-scored box", "best box"), zip(*seen, strict=True), strict=True):
            shares = ", ".join(f"{100 * sum(v > t for v in values) / len(values):.0f} % over {t}" for t in (0.5, 0.75))
            print(f"{len(values)} targets, {name}: IoU {shares}; median {statistics.median(values):.2f}")
        return
    with torch.no_grad():
        for n, key in enumerate(keys):
            substituted(run, bop_scenes.read_frame(scenes[key[0]], key[1], masks=False, depth=False), results, key, wanted[key])
            print(f"\r{n + 1} of {len(keys)} photos", end="", flush=True)
    print(f"\n\n{'':34s}{'AR':>8s}{'MSSD':>8s}{'MSPD':>8s}{'ADD(-S) 0.1 d %':>18s}")
    with tempfile.TemporaryDirectory() as folder:
        for name, parts in results.items():
            path = bop_results.write_results(Path(folder) / "limits_lmo-test.csv", parts)
            report = bop_evaluation.evaluate(path, args.data, asked)
            ar = report["ar"]
            print(f"{name:34s}{ar['mean']:8.3f}{ar['mssd']:8.3f}{ar['mspd']:8.3f}{100 * report['add_s']['0.1']:18.1f}")


if __name__ == "__main__":
    main()
