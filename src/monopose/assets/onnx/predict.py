"""6D poses of known objects with what `monopose export` wrote: numpy, OpenCV and onnxruntime, neither torch nor monopose.

    python predict.py photo.jpg camera.json

The same two stages as monopose: the detector looks six times, the network looks at each object twice, PnP takes both looks
together. PnP is OpenCV's here, and nothing is done after it: monopose lays the contour of the CAD model on the edges of the
picture and refines by rendering, where a run has what these need. The pose is that of the object in the camera: metres, x
right, y down, z forward.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

FAINT, LEAST = 0.01, 0.2  # scores of boxes: to have a vote, to count
SAME_BOX, SAME_LOOK, SAME_POSE = 0.6, 0.5, 0.6  # overlap (IoU) from which two boxes are about the same thing
MOST = 100  # boxes


class Run:
    """An exported folder. `index` is its model.json."""

    def __init__(self, folder, threads=0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.index = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        self.parts, self.objects = self.index["parts"], self.index["objects"]
        self.sessions = {
            name: onnxruntime.InferenceSession(str(Path(folder) / part["file"]), options, providers=["CPUExecutionProvider"])
            for name, part in self.parts.items()
            if name in ("detector", "coordinates")
        }

    def __call__(self, name, **inputs):
        return self.sessions[name].run(list(self.parts[name]["outputs"]), inputs)


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x.astype(np.float64)))


# ------------------------------------------------------------------------------------------------- pictures and crops


def resized(image, size):
    """(H, W, 3) -> (*size, 3), bilinear; where it shrinks the filter is as wide as what it shrinks."""
    matrices = []
    for n, side in zip(image.shape[:2], size):
        scale = n / side
        away = np.abs(np.arange(n) + 0.5 - (np.arange(side)[:, None] + 0.5) * scale)
        weights = np.clip(1 - away / max(scale, 1), 0, None)
        matrices.append(weights / weights.sum(1, keepdims=True))
    return applied(image, *matrices)


def applied(image, rows, columns):
    """The picture (H, W, 3) under a matrix (h, H) for its rows and one (w, W) for its columns, float32."""
    y, x = (
        slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
        for m in (rows, columns)
        for used in [np.flatnonzero(m.any(0))]
    )
    part = image[y, x].astype(np.float64)
    return np.einsum("ij,jkc,lk->ilc", rows[:, y], part, columns[:, x], optimize=True).astype(np.float32)


def taps(low, high, side, n):
    """Bilinear weights (side, n) of an axis of n pixels that is cut from edge `low` to `high`, low-passed where it shrinks; and
    how far each of the `side` places lies inside the picture, 0 to 1."""
    step = (high - low) / side
    at = low + (np.arange(side) + 0.5) * step - 0.5
    inside = np.clip(np.minimum(at + 1, n - at), 0, 1)
    width = round(step) // 2 * 2 + 1
    if width == 1:
        return np.clip(1 - np.abs(at[:, None] - np.arange(n)), 0, None), inside
    first, last = max(int(np.floor(low)) - width - 1, 0), min(int(np.ceil(high)) + width + 1, n)
    if last <= first:
        return np.zeros((side, n)), inside
    block = width // 3 if width >= 9 else 1  # wide filters first take averages of blocks
    width = 3 if width >= 9 else width
    count = -(-(last - first) // block)
    owner = np.arange(last - first) // block
    blocks = (np.arange(count)[:, None] == owner) / np.bincount(owner)[:, None]
    near = (np.abs(np.arange(count)[:, None] - np.arange(count)) <= width // 2).astype(float)
    at = (at + 0.5 - first) / block - 0.5
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(count)), 0, None) @ (near / near.sum(1, keepdims=True)) @ blocks
    whole = np.zeros((side, n))
    whole[:, first:last] = weights
    return whole, inside


def cut(image, box, side):
    """The square `box` of a picture (H, W, 3) as (side, side, 3); grey outside the picture."""
    (columns, x), (rows, y) = (taps(box[k], box[k + 2], side, image.shape[1 - k]) for k in (0, 1))
    return applied(image, rows, columns) + (0.5 * (1 - np.outer(y, x))[..., None]).astype(np.float32)


def square(box, scale):
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max() * scale / 2
    return np.concatenate([centre - half, centre + half])


def grid(box, side):
    """Pixels (side, side, 2) of the picture in which the pixels of a crop lie."""
    x, y = (box[k] + (np.arange(side) + 0.5) * (box[k + 2] - box[k]) / side - 0.5 for k in (0, 1))
    return np.stack(np.meshgrid(x, y), -1)


# ----------------------------------------------------------------------------------------------------------- detector


def iou(a, b):
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = [np.clip(v[:, 2:] - v[:, :2], 0, None).prod(-1) for v in (a, b)]
    return shared / np.maximum(area[0][:, None] + area[1] - shared, 1e-12)


def nms(boxes, scores, which, overlap):
    """Rows that stay, best first: of two of one kind that overlap more, the better one."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    near = (iou(boxes, boxes) > overlap) & (which[:, None] == which)
    for i in order:
        if not near[i, kept].any():
            kept.append(i)
    return np.array(kept, int)


def peaks(heat, distances, content, faint, stride=4):
    """Classes, boxes in pixels of the network's picture and scores of what one look sees."""
    heat = sigmoid(heat).astype(np.float32)
    around = np.stack([cv2.dilate(plane, np.ones((3, 3), np.uint8)) for plane in heat])
    peak = heat == around
    peak[:, -(-content[0] // stride) :] = False
    peak[:, :, -(-content[1] // stride) :] = False
    found = np.flatnonzero(peak.ravel() & (heat.ravel() >= faint))
    found = found[np.argsort(-heat.ravel()[found], kind="stable")][: 4 * MOST]
    which, row, column = np.unravel_index(found, heat.shape)
    centre, reach = np.stack([column, row], -1) + 0.5, np.exp(np.minimum(distances[which, :, row, column], 7))
    boxes = np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], -1) * stride
    scores = heat.ravel()[found]
    keep = nms(boxes, scores, which, SAME_BOX)[:MOST]
    return which[keep], boxes[keep], scores[keep]


def detect(run, image, looks=6):
    """Object numbers (N,), boxes (N, 4) and scores (N,) of a picture (H, W, 3), best first.

    looks: 1: at the picture; 2: at its mirror image as well; 6: and at four quarters of it, enlarged.
    """
    height, width = image.shape[:2]
    h, w = (max(round(2 / 3 * s), 1) for s in (height, width))
    views = [(0, 0, 0, height, width, False), (1, 0, 0, height, width, True)]
    views += [(2, y, x, h, w, False) for y in (0, height - h) for x in (0, width - w)]
    size = run.parts["detector"]["inputs"]["images"]["shape"][2:]
    shown, contents = [], []
    for _, top, left, h, w, mirrored in views[:looks]:
        factor = min(size[0] / h, size[1] / w)
        content = [max(1, min(s, round(n * factor))) for s, n in zip(size, (h, w))]
        look = image[top : top + h, left : left + w]
        canvas = np.full((*size, 3), 0.5, np.float32)
        canvas[: content[0], : content[1]] = resized(look[:, ::-1] if mirrored else look, content)
        shown.append(canvas.transpose(2, 0, 1))
        contents.append(content)
    heat, distances, *_ = run("detector", images=np.stack(shown))
    seen = []
    for (_, top, left, h, w, mirrored), content, warm, sides in zip(views, contents, heat, distances):
        which, boxes, scores = peaks(warm, sides, content, min(FAINT, LEAST) if looks > 1 else LEAST)
        boxes = boxes / np.tile([content[1] / w, content[0] / h], 2)
        if mirrored:
            boxes = np.stack([w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0], boxes[:, 3]], -1)
        seen.append((which, boxes + np.array([left, top, left, top]), scores))
    which, boxes, scores = agreed(seen, views[:looks], (height, width))
    keep = nms(boxes, scores, which, SAME_BOX)[:MOST]
    keep = keep[scores[keep] >= LEAST]
    return np.array(run.parts["detector"]["obj_ids"])[which[keep]], boxes[keep], scores[keep]


def agreed(seen, views, size):
    """Boxes of different looks about the same object become one: their average by squared scores. The score is the mean over
    the views that show most of it, of the best in each."""
    which, boxes, scores = (np.concatenate(v) for v in zip(*seen))
    if len(seen) == 1 or not len(which):
        return which, boxes, scores
    of = np.repeat(np.arange(len(seen)), [len(s[0]) for s in seen])
    view = np.array([v[0] for v in views])
    near = (iou(boxes, boxes) > SAME_LOOK) & (which[:, None] == which) & (of[:, None] != of)
    inside = np.clip(boxes, 0, [size[1], size[0]] * 2)
    area = np.clip(inside[:, 2:] - inside[:, :2], 0, None).prod(-1)
    shows = np.ones((len(boxes), len(views)), bool)
    for k, (_, top, left, h, w, _) in enumerate(views):
        part = np.clip(inside, [left, top] * 2, [left + w, top + h] * 2)
        share = np.clip(part[:, 2:] - part[:, :2], 0, None).prod(-1) / np.maximum(area, 1e-12)
        shows[:, k] = np.where(area > 0, share, 1) >= 0.75
    p, free, rows, result, means = np.maximum(scores.astype(float), 1e-9), np.ones(len(boxes), bool), [], [], []
    for leader in np.argsort(-p, kind="stable"):
        if not free[leader]:
            continue
        rivals = np.flatnonzero(near[leader] & free)
        rivals = rivals[np.argsort(-p[rivals], kind="stable")]
        members = np.append(leader, rivals[np.unique(of[rivals], return_index=True)[1]])
        free[members] = False
        best = [p[members[view[of[members]] == v]].max(initial=0.0) for v in np.unique(view[shows[leader]])]
        rows.append(leader)
        means.append(np.mean(best))
        result.append(np.average(boxes[members], axis=0, weights=p[members] ** 2))
    return which[rows], np.array(result), np.array(means)


# -------------------------------------------------------------------------------------------------------------- poses


def look(run, image, numbers, boxes, keep=None):
    """What the network says of square crops: per crop coordinates (h, w, 3) in metres, expected error and probability of being
    visible, (h, w) each. `keep` has the pixels (s, s) of each crop that are shown, or None; the others are grey."""
    side = run.parts["coordinates"]["inputs"]["images"]["shape"][2]
    crops = np.stack([cut(image, box, side) for box in boxes])
    for crop, mask in zip(crops, keep or []):
        if mask is not None:
            crop[~mask] = 0.5
    ids = [thing["id"] for thing in run.objects]
    index = np.array([ids.index(n) for n in numbers], np.int64)
    coordinates, error, visible, *_ = run("coordinates", images=crops.transpose(0, 3, 1, 2), index=index)
    scale, centre = (np.array([run.objects[i][key] for i in index]) for key in ("scale_m", "centre_m"))
    metres = coordinates.transpose(0, 2, 3, 1) * scale[:, None, None] + centre[:, None, None]
    return list(zip(metres, sigmoid(error), sigmoid(visible)))


def solve(points, pixels, K, threshold):
    """The pose (4, 4) of points (N, 3), metres, seen at pixels (N, 2), and which of them fit, (N,); None if there is none."""
    points, pixels = np.ascontiguousarray(points, np.float64), np.ascontiguousarray(pixels, np.float64)
    if len(points) < 6:
        return None
    done, r, t, inliers = cv2.solvePnPRansac(
        points, pixels, K, None, iterationsCount=2000, reprojectionError=threshold, confidence=0.9999, flags=cv2.SOLVEPNP_SQPNP
    )
    if not done or inliers is None or len(inliers) < 6:
        return None
    for _ in range(3):
        fits = np.linalg.norm(cv2.projectPoints(points, r, t, K, None)[0].reshape(-1, 2) - pixels, axis=1) < threshold
        if fits.sum() < 6:
            return None
        r, t = cv2.solvePnPRefineLM(points[fits], pixels[fits], K, None, r, t)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(r)[0], t.ravel()
    return (pose, fits) if pose[2, 3] > 0 else None


def second_look(run, number, output, box, pose, K):
    """The square to look at again, and which pixels of its crop to keep: what the first look took for the object."""
    part = run.parts["coordinates"]
    side, h, scale = part["inputs"]["images"]["shape"][2], part["output_size"], part["crop_scale"]
    row = np.arange(side) * h // side
    mask = cv2.dilate(output[2].astype(np.float32), np.ones((5, 5), np.uint8))[row][:, row] > 0.3
    if not mask.any():
        return box, None
    old = box[2] - box[0]
    if pose is not None:
        corners = np.array(next(o for o in run.objects if o["id"] == number)["corners_m"])
        new = square(box_of(corners, pose, K), 0.9 * scale)
        if not np.isfinite(new).all() or not 0.5 * old < new[2] - new[0] < 2 * old:
            return box, mask
    else:
        pixels = grid(box, h)[output[2] > 0.5]
        if len(pixels) < 6:
            return box, mask
        new = square(np.concatenate([pixels.min(0), pixels.max(0)]) + 0.5, scale)
        new = new if new[2] - new[0] < old else box
    at = [np.rint((grid(new, side)[..., k] + 0.5 - box[k]) / old * side - 0.5).astype(int) for k in (0, 1)]
    known = (at[0] >= 0) & (at[0] < side) & (at[1] >= 0) & (at[1] < side)
    return new, known & mask[np.clip(at[1], 0, side - 1), np.clip(at[0], 0, side - 1)]


def box_of(corners, pose, K):
    seen = (corners @ pose[:3, :3].T + pose[:3, 3]) @ K.T
    pixels = seen[:, :2] / np.maximum(seen[:, 2:], 1e-6)
    return np.concatenate([pixels.min(0), pixels.max(0)]) + 0.5


def estimate(run, image, K, numbers, boxes, scores):
    """Poses of boxed objects: a list of dicts with object, score and pose, those without a pose left out."""
    if not len(numbers):
        return []
    part = run.parts["coordinates"]
    h = part["output_size"]
    first = [square(box, part["crop_scale"]) for box in boxes]
    views = [(first, look(run, image, numbers, first))]

    def solved(i, chosen):
        """The pose that some looks agree on, and its score: share of inliers x how sure the network is."""
        points, pixels, errors = [], [], []
        for squares, output in chosen:
            use = output[i][2] > 0.5
            points.append(output[i][0][use])
            pixels.append(grid(squares[i], h)[use])
            errors.append(output[i][1][use])
        grain = np.mean([squares[i][2] - squares[i][0] for squares, _ in chosen]) / h
        found = solve(np.concatenate(points), np.concatenate(pixels), K, max(2.0, 3.0 * grain))
        return None if found is None else (found[0], found[1].mean() * (1 - min(np.concatenate(errors).mean(), 1)))

    poses = [solved(i, views) for i in range(len(numbers))]
    again = [
        second_look(run, n, output, box, None if p is None else p[0], K)
        for n, output, box, p in zip(numbers, views[0][1], first, poses)
    ]
    squares = [square for square, _ in again]
    views.insert(0, (squares, look(run, image, numbers, squares, [mask for _, mask in again])))
    poses = [solved(i, views) or poses[i] for i in range(len(numbers))]
    return [{"object": int(n), "score": float(score * p[1]), "pose": p[0]} for n, score, p in zip(numbers, scores, poses) if p]


def probability(run, score, looks):
    """The probability that a pose is right, or None: the run was not calibrated for so many looks."""
    known = run.index["calibration"]
    if known is None or known["looks"] != looks:
        return None
    if "logistic" in known:
        s = min(max(score, 1e-6), 1 - 1e-6)
        return float(sigmoid(np.array(known["logistic"]["slope"] * np.log(s / (1 - s)) + known["logistic"]["offset"])))
    return float(0.999 * np.interp(score, known["isotonic"]["scores"], known["isotonic"]["probabilities"]) + 0.001 * score)


def predict(run, image, K, looks=6):
    """Poses of the known objects in a picture (H, W, 3), RGB in [0, 1], float32, without lens distortion; K (3, 3), pixels.

    Returns a list of dicts, best first: object, name, score, probability or None, pose (4, 4).
    """
    found = estimate(run, image, K, *detect(run, image, looks))
    found.sort(key=lambda f: -f["score"])
    things = {thing["id"]: thing for thing in run.objects}
    if found:  # what the detector has found twice counts once
        boxes = np.stack([box_of(np.array(things[f["object"]]["corners_m"]), f["pose"], K) for f in found])
        rows = nms(boxes, np.array([f["score"] for f in found]), np.array([f["object"] for f in found]), SAME_POSE)
        found = [found[i] for i in rows]
    return [{**f, "name": things[f["object"]]["name"], "probability": probability(run, f["score"], looks)} for f in found]


def read(photo, camera):
    """A picture (H, W, 3), RGB in [0, 1], and K (3, 3); the camera file has fx, fy, cx, cy, and distortion if there is any."""
    image = cv2.imread(str(photo))
    if image is None:
        sys.exit(f"{photo} cannot be read as a picture")
    c = json.loads(Path(camera).read_text(encoding="utf-8"))
    K = np.array([[c["fx"], c.get("skew", 0), c["cx"]], [0, c["fy"], c["cy"]], [0, 0, 1]], float)
    if any(c.get("distortion", [])):
        image = cv2.undistort(image, K, np.array(c["distortion"], float))
    return image[..., ::-1].astype(np.float32) / 255, K


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python predict.py photo.jpg camera.json")
    for f in predict(Run(Path(__file__).parent), *read(*sys.argv[1:])):
        print(json.dumps({**f, "pose": f["pose"].tolist()}))
