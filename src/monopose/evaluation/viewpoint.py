"""Scores of estimated viewpoints: bins of azimuth, elevation and in-plane rotation, and the rotation they make together.

Every score stands beside two that need no picture: of the best constant answer, which knows the truth's own distribution
(for bins: the majority class), and of uniformly random answers.

A symmetric object has several true viewpoints. A bin is right if one of them lies in it, an angle between rotations is that
to the nearest of them, and the answers without pictures are judged alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..geometry import rotation, symmetry, viewpoints
from ..geometry.viewpoints import Bins
from ..io import records
from ..io.files import existing_file
from ..types import Symmetries

ANGLES = ("azimuth", "elevation", "inplane")
BINS: dict[str, tuple[Bins, Bins, Bins]] = {"published": viewpoints.PUBLISHED, "centred": viewpoints.CENTRED}
CONSTANTS = 100  # so many true viewpoints are tried as constant answers
RANDOM_MEDIAN_DEG = 132.3464588  # median angle of a random rotation: angle - sin(angle) = pi / 2


def bins_of(angles: Tensor, bins: Sequence[Bins]) -> Tensor:
    """The bin of every angle. (..., 3), radians -> (..., 3), int64."""
    return torch.stack([b.index(angles[..., k]) for k, b in enumerate(bins)], -1)


def neighbours(bins: Bins) -> Tensor:
    """Which bins are the same or lie side by side, (count, count), bool; all the way round where the bins go so far."""
    index = torch.arange(bins.count)
    apart = (index[:, None] - index).abs()
    if math.isclose(bins.count * bins.width, 2 * math.pi):
        apart = torch.minimum(apart, bins.count - apart)
    return apart <= 1


def turns(symmetries: Symmetries | None) -> Tensor:
    """The rotations under which an object looks the same, the identity first. -> (S, 3, 3), float64."""
    if symmetries is None or not symmetries.any:
        return torch.eye(3, dtype=torch.float64)[None]
    group = symmetry.transforms(symmetries.to("cpu", torch.float64))[:, :3, :3]
    group[0] = torch.eye(3)
    return group


def errors(predicted: Tensor, true: Tensor, group: Tensor | None = None) -> Tensor:
    """Angles between rotations, to the nearest of the equivalent truths.

    Args:
        predicted, true: azimuth, elevation, in-plane rotation, (..., 3), radians.
        group: rotations under which the object looks the same, (S, 3, 3); None: it has no symmetry.

    Returns:
        (...), radians, in [0, pi], float64.
    """
    seen, truth = viewpoints.rotation_of(predicted.double()), viewpoints.rotation_of(true.double())
    if group is None or len(group) == 1:
        return rotation.angle_between(seen, truth)
    return rotation.angle_between(seen[..., None, :, :], truth[..., None, :, :] @ group.to(truth)).amin(-1)


def reached(true: Tensor, bins: Sequence[Bins], group: Tensor | None = None) -> Tensor:
    """The bins that hold an equivalent truth. (N, 3), radians; (S, 3, 3) or None -> (N, 3, count), bool.

    Each angle is judged by itself. For rotations about +Z, which change the azimuth alone, one equivalent explains all three.
    """
    index = bins_of(true, bins)[:, None]
    if group is not None and len(group) > 1:
        upright = group[:, 2, 2] > 1 - 1e-9  # exact for these: no bin's edge is crossed by rounding
        azimuth = torch.atan2(group[upright, 1, 0], group[upright, 0, 0])
        others = [viewpoints.wrapped(true[:, None] + azimuth[:, None] * azimuth.new_tensor([1.0, 0, 0]))]
        others += [viewpoints.angles_of(viewpoints.rotation_of(true)[:, None] @ group[~upright])]
        index = torch.cat([index, *(bins_of(other, bins) for other in others)], 1)
    return torch.nn.functional.one_hot(index, bins[0].count).any(1)


def confusion(predicted: Tensor, true: Tensor, count: int = 8) -> Tensor:
    """How often each true bin (row) was taken for each bin (column). (N,), (N,) -> (count, count), int64."""
    return torch.bincount(true * count + predicted, minlength=count * count).view(count, count)


def scores(
    predicted: Tensor, true: Tensor, bins: Sequence[Bins], predicted_bins: Tensor | None = None,
    symmetries: Sequence[Symmetries | None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All scores of some viewpoints.

    Args:
        predicted: azimuth, elevation, in-plane rotation, (N, 3), radians.
        true: the same of the truth, (N, 3), radians.
        bins: of the three angles, e.g. `viewpoints.CENTRED`.
        predicted_bins: (N, 3), int64; None: those of `predicted`. A network's best bin need not be that of its angle.
        symmetries: of the objects, N of them; None: they have none.

    Returns:
        images: N; for azimuth, elevation and inplane each
            accuracy, within_one: shares whose bin is right, and right or next to it,
            majority, majority_within_one: the same of the best constant answers, majority_bin: the first one's,
            chance, chance_within_one: of random ones,
            confusion: counts, rows the truth, columns the answer (a bin that an equivalent truth reaches counts as true);
        acc_pi_6: share whose rotation is off by less than 30 degrees, median_deg: median angle, degrees; both also
            with _constant (the best of 100 of the true viewpoints, given every time) and _chance (random rotations, for
            objects without symmetry).

    Raises:
        ValueError: on wrong shapes, none at all, or numbers that are not finite.
    """
    predicted, true = predicted.detach().cpu().double(), true.detach().cpu().double()
    if predicted.dim() != 2 or predicted.shape[-1] != 3 or predicted.shape != true.shape or not len(true):
        raise ValueError(
            f"expected predicted and true angles (N, 3), N >= 1, got {tuple(predicted.shape)} and {tuple(true.shape)}"
        )
    if not bool(torch.isfinite(predicted).all() and torch.isfinite(true).all()):
        raise ValueError("angles must be finite numbers, radians; some are NaN or infinite")
    index = bins_of(predicted, bins) if predicted_bins is None else predicted_bins.detach().cpu().long()
    if (
        index.shape != true.shape
        or bool((index < 0).any())
        or any(bool((index[:, k] >= b.count).any()) for k, b in enumerate(bins))
    ):
        raise ValueError(f"expected predicted bins ({len(true)}, 3) from 0 to {bins[0].count - 1}, got {tuple(index.shape)}")
    if symmetries is not None and len(symmetries) != len(true):
        raise ValueError(f"expected the symmetries of all {len(true)} objects, got {len(symmetries)}")
    alike = _alike(symmetries, len(true))
    hit = torch.zeros(len(true), 3, bins[0].count, dtype=torch.bool)
    for group, rows in alike:
        hit[rows] = reached(true[rows], bins, group)
    result: dict[str, Any] = {"images": len(true)}
    for k, (name, b) in enumerate(zip(ANGLES, bins, strict=True)):
        result[name] = _bin_scores(index[:, k], bins_of(true, bins)[:, k], hit[:, k], neighbours(b))
    off = _off(predicted, true, alike)
    candidates = true[torch.linspace(0, len(true) - 1, min(CONSTANTS, len(true))).round().long()]
    constants = _off_constants(candidates, true, alike)
    limit = math.pi / 6
    return result | {
        "acc_pi_6": float((off < limit).double().mean()),
        "acc_pi_6_constant": float((constants < limit).double().mean(-1).max()),
        "acc_pi_6_chance": (limit - math.sin(limit)) / math.pi,
        "median_deg": math.degrees(float(off.quantile(0.5))),
        "median_deg_constant": math.degrees(float(constants.quantile(0.5, -1).min())),
        "median_deg_chance": RANDOM_MEDIAN_DEG,
    }


def by_category(
    predicted: Tensor, true: Tensor, categories: Sequence[str], bins: Sequence[Bins], predicted_bins: Tensor | None = None,
    symmetries: Sequence[Symmetries | None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`scores` of all together under "overall", and of every category under "per_category"."""
    report = {"overall": scores(predicted, true, bins, predicted_bins, symmetries), "per_category": {}}
    for name in sorted(set(categories)):
        rows = [i for i, category in enumerate(categories) if category == name]
        mine = None if predicted_bins is None else predicted_bins[rows]
        own = None if symmetries is None else [symmetries[i] for i in rows]
        report["per_category"][name] = scores(predicted[rows], true[rows], bins, mine, own)
    return report


def _alike(symmetries: Sequence[Symmetries | None] | None, count: int) -> list[tuple[Tensor, Tensor]]:
    """Rotation groups and the rows they belong to; objects that share one `Symmetries` are judged together."""
    if symmetries is None:
        return [(turns(None), torch.arange(count))]
    rows: dict[int, list[int]] = {}
    for i, each in enumerate(symmetries):
        rows.setdefault(id(each) if each is not None and each.any else 0, []).append(i)
    return [(turns(symmetries[mine[0]]), torch.tensor(mine)) for mine in rows.values()]


def _off(predicted: Tensor, true: Tensor, alike: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    off = torch.zeros(len(true), dtype=torch.float64)
    for group, rows in alike:
        off[rows] = errors(predicted[rows], true[rows], group)
    return off


def _off_constants(answers: Tensor, true: Tensor, alike: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Angles from a few answers (C, 3), each given every time, to every truth (N, 3). -> (C, N), radians."""
    flat = viewpoints.rotation_of(answers).flatten(1)
    off = torch.zeros(len(answers), len(true), dtype=torch.float64)
    for group, rows in alike:
        for some in rows.split(max(1, 200_000 // len(group))):  # memory
            truth = viewpoints.rotation_of(true[some])[:, None] @ group
            traces = flat @ truth.flatten(0, 1).flatten(1).mT  # of answer^T truth
            cosine = (traces.view(len(flat), len(some), -1).amax(-1) - 1) / 2
            off[:, some] = cosine.clamp(-1, 1).acos()
    return off


def _bin_scores(predicted: Tensor, true: Tensor, hit: Tensor, near: Tensor) -> dict[str, Any]:
    """One angle: (N,), (N,), which bins are right (N, count), which lie side by side (count, count)."""
    close = (hit.double() @ near.double()) > 0  # right, or next to one that is
    right = hit.gather(1, predicted[:, None]).squeeze(1)
    return {
        "accuracy": float(right.double().mean()),
        "within_one": float(close.gather(1, predicted[:, None]).double().mean()),
        "majority": float(hit.double().mean(0).max()),
        "majority_bin": int(hit.double().mean(0).argmax()),
        "majority_within_one": float(close.double().mean(0).max()),
        "chance": float(hit.double().mean()),
        "chance_within_one": float(close.double().mean()),
        "confusion": confusion(predicted, torch.where(right, predicted, true), hit.shape[1]).tolist(),
    }


# ------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Predictions:
    """What a predictions file holds.

    Args:
        images: paths of the pictures in their data set.
        categories: of each.
        angles: azimuth, elevation, in-plane rotation, (N, 3), radians, float64.
        index: their bins, (N, 3), int64, or None: those of the angles.
        probabilities: (N, 3, 8), or None.
        bins: "published" or "centred".
        about: what else the file says: "by", "seed" and "share" of the split, "corrupt", "inputs".
    """

    images: list[str]
    categories: list[str]
    angles: Tensor
    index: Tensor | None
    probabilities: Tensor | None
    bins: str
    about: dict[str, Any]


def read_predictions(path: str | Path) -> Predictions:
    """Read predictions.json.

    Raises:
        FileNotFoundError, ValueError: no such file; not JSON; a picture without angles, twice, or with numbers that cannot be.
    """
    path = existing_file(path, "predictions file")
    content = records.read_json(path)
    form = 'expected {"bins": "centred", "images": [{"image": "img/chair/0001.png", "azimuth_deg": …, …}]}'
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{path} holds no predictions of viewpoints; {form}")
    kind = content.get("bins", "centred")
    if not isinstance(kind, str) or kind not in BINS:
        raise ValueError(f"{path}: bins {kind!r} are unknown; expected one of {', '.join(BINS)}")
    rows: list[dict[str, Any]] = content["images"]
    angles, index, probabilities, seen = [], [], [], set()
    for n, row in enumerate(rows):
        where = f"{path}, entry {n}"
        try:
            name = records.text(row, "image", where)
            angles.append([math.radians(float(records.numbers(row, f"{a}_deg", (), where))) for a in ANGLES])
            highest = BINS[kind][0].count - 1
            mine = records.rows(row["bins"], f"{where}: bins") if "bins" in row else None
            index.append(None if mine is None else [records.whole(v, f"{where}: bins", high=highest) for v in mine])
            given = "probabilities" in row
            shape = (len(ANGLES), highest + 1)
            shares = records.numbers(row, "probabilities", shape, where) if given else None
            if shares is not None and not ((shares >= 0) & (shares <= 1)).all():
                raise ValueError(f"{where}: 'probabilities' must lie between 0 and 1")
            probabilities.append(None if shares is None else shares.tolist())
        except ValueError as error:
            raise ValueError(f"{error}; {form}") from error
        if name in seen:
            raise ValueError(f"{where}: {name} is there twice")
        seen.add(name)
        if mine is not None and len(mine) != len(ANGLES):
            raise ValueError(f"{where}: bins must be three numbers from 0 to {highest}, got {mine}")
    about = {k: v for k, v in content.items() if k not in ("images", "bins", "categories")}
    return Predictions(
        [str(row["image"]) for row in rows], [str(row.get("category", "")) for row in rows],
        torch.tensor(angles, dtype=torch.float64).reshape(-1, 3),
        None if None in index else torch.tensor(index, dtype=torch.int64).reshape(-1, 3),
        None if None in probabilities else torch.tensor(probabilities, dtype=torch.float32), kind, about,
    )  # fmt: skip


def evaluate(predictions: str | Path, data: str | Path, bins: str | None = None) -> dict[str, Any]:
    """Score a predictions file against a Pix3D data set.

    Args:
        predictions: the file, see `read_predictions`.
        data: the data set's folder. A symmetries.json in it says which shapes look the same after a turn, see
            `pix3d.read_symmetries`; the real Pix3D has none.
        bins: "published" or "centred": judge the angles in these bins; None: the file's own, and its own choice among them.

    Returns:
        `by_category`'s report, and under "about": predictions, data, bins, and what the file says of itself.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken; a picture is not in the data set; the file says that it
            answers for a split and lacks a picture of it.
    """
    from ..datasets import pix3d

    given = read_predictions(predictions)
    if not given.images:
        raise ValueError(f"{predictions} holds no picture")
    if bins is not None and bins not in BINS:
        raise ValueError(f"bins must be one of {', '.join(BINS)}, got {bins!r}")
    kind = bins or given.bins
    records = {r.image: r for r in pix3d.read(data, categories=sorted({c for c in given.categories if c}))}
    strange = [name for name in given.images if name not in records]
    if strange:
        raise ValueError(f"{len(strange)} of {len(given.images)} pictures are not in {data}; the first: {strange[0]}")
    _check_whole(given, records, predictions)
    mine = [records[name] for name in given.images]
    known = pix3d.read_symmetries(data)
    same = [known.get(r.shape) for r in mine] if known else None
    true = torch.stack([r.angles for r in mine])
    index = given.index if kind == given.bins else None
    report = by_category(given.angles, true, [r.category for r in mine], BINS[kind], index, same)
    about = {"predictions": str(predictions), "data": str(data), "bins": kind, **given.about}
    about["symmetric_shapes"] = len({r.shape for r in mine} & set(known))
    return report | {"about": about}


def _check_whole(given: Predictions, records: Mapping[str, Any], path: str | Path) -> None:
    """Raise where the file says which split it answers for, and pictures of that are missing."""
    from ..datasets import pix3d

    by = given.about.get("by")
    if by not in ("image", "shape") or given.about.get("limit"):
        return
    seed, share = int(given.about.get("seed", 0)), float(given.about.get("share", 0.1))
    wanted = pix3d.split(list(records.values()), by, seed, share)[1]
    missing = sorted({r.image for r in wanted} - set(given.images))
    if missing:
        raise ValueError(
            f"{path} says that it answers for the split by {by}, and lacks {len(missing)} of its {len(wanted)} pictures; the "
            f"first: {missing[0]}. Predict them too"
        )


def text(report: Mapping[str, Any]) -> str:
    """A report of `by_category` as a table: percent and degrees; in brackets the best constant answer."""
    columns = ("azimuth", "±1 bin", "elevation", "±1 bin", "in-plane", "±1 bin", "Acc π/6", "median")
    everything = {**report["per_category"], "all": report["overall"]}
    if len(everything) == 2:
        everything = {"all": report["overall"]}
    rows = []
    for name, found in everything.items():
        cells = []
        for angle in ANGLES:
            mine = found[angle]
            cells.append(_beside(mine["accuracy"], mine["majority"]))
            cells.append(_beside(mine["within_one"], mine["majority_within_one"]))
        cells.append(_beside(found["acc_pi_6"], found["acc_pi_6_constant"]))
        cells.append(f"{found['median_deg']:.1f}° ({found['median_deg_constant']:.1f}°)")
        rows.append((name, found["images"], cells))
    overall = report["overall"]
    chance = [f"{100 * overall[a][key]:.1f}" for a in ANGLES for key in ("chance", "chance_within_one")]
    chance += [f"{100 * overall['acc_pi_6_chance']:.1f}", f"{overall['median_deg_chance']:.1f}°"]
    rows.append(("random answers", None, chance))
    width = max(len(row[0]) for row in rows)
    wide = [max(len(head), *(len(row[2][k]) for row in rows)) for k, head in enumerate(columns)]
    lines = [f"{'percent':{width}}  images  " + "  ".join(f"{head:>{w}}" for head, w in zip(columns, wide))]
    for name, images, cells in rows:
        count = "" if images is None else images
        lines.append(f"{name:{width}}  {count:>6}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, wide)))
    lines += ["", "in brackets: the best constant answer; for bins that is the majority class"]
    return "\n".join(lines + _about(report.get("about", {})))


def _about(about: Mapping[str, Any]) -> list[str]:
    """What the numbers were made from, oracles by that name."""
    if not about:
        return []
    split = "every picture" if about.get("by") == "all" else f"validation part of the split by {about.get('by')}"
    split = split if "by" in about else "the pictures of the file"
    lines = [f"{about['data']}: {split}; {about['bins']} bins"]
    if about.get("symmetric_shapes"):
        lines.append(
            f"{about['symmetric_shapes']} shapes look the same after a turn; of their true viewpoints the nearest counts"
        )
    if about.get("inputs") not in (None, "rgb"):
        masks = f"true masks, made worse ({about['corrupt']})" if about.get("corrupt") else "true masks"
        oracle = "; normals are an ORACLE, rendered from the CAD model at its true pose" * (about.get("normals") == "oracle")
        lines.append(f"inputs up to {about['inputs']}: {masks}{oracle}")
    return lines


def _beside(score: float, constant: float) -> str:
    return f"{100 * score:.1f} ({100 * constant:.1f})"
