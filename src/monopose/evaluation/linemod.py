"""The protocol of the LINEMOD papers: which objects are in a picture is known, one estimate each; ADD(-S), n degrees n cm,
2D projection, and the area under the curve as the YCB-Video papers have it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.bop import results as bop_results
from ..io import records
from . import errors, scores
from .bop import Data, Object, open_data, read_objects

Array = NDArray[Any]

ADD_THRESHOLDS = (0.02, 0.05, 0.1)  # of the diameter
DEG_CM = tuple(range(1, 11))  # degrees and centimetres
PIXELS = (2, 5, 10, 20)  # mean distance of projected model points
AUC_LIMIT = 0.1  # metres
LINEMOD_DIAMETERS = {  # metres, by BOP's object id, as distributed with LINEMOD and used by PVNet and RNNPose
    1: 0.09743, 2: 0.28691, 3: 0.17119, 4: 0.17159, 5: 0.19342, 6: 0.15263, 7: 0.12596, 8: 0.25943, 9: 0.10713, 10: 0.17636,
    11: 0.16486, 12: 0.14820, 13: 0.30315, 14: 0.28516, 15: 0.20839,
}  # fmt: skip
SYMMETRIC = {  # ids for which tables print ADD-S; of other data sets the objects with symmetries in models_info.json
    "lm": (3, 7, 10, 11), "lmo": (10, 11), "ycbv": (1, 13, 14, 16, 18, 19, 20, 21),
}  # fmt: skip
EGGBOX = 10  # its id in LINEMOD
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # half a turn about the object's Z


class _Errors(NamedTuple):
    """Errors of every instance to find of one object, inf where there is no estimate; (N,) each."""

    add_s: Array  # ADD or ADD-S, metres
    adi: Array  # ADD-S, metres
    degrees: Array
    centimetres: Array
    pixels: Array


def evaluate(
    results: records.PathLike | bop_results.Results,
    data_dir: records.PathLike,
    targets: records.PathLike | bop_results.Targets | None = None,
    *,
    split: str | None = None,
    models: str = "models_eval",
    symmetric: Collection[int] | None = None,
    flip_eggbox: bool = False,
) -> dict[str, Any]:
    """Score a BOP result file as the LINEMOD papers do: the best-scored estimate of every object that is known to be there.

    Args:
        results: the CSV file, or its rows.
        data_dir: the data set's folder, with `models`, a split folder and the targets file.
        targets: a targets file; test_targets_bop19.json of the data set by default.
        split: folder of the scenes; by default what the file's name says ("test"), then "test".
        models: folder of the models whose vertices count, "models_eval" by default, "models" if there is no other.
        symmetric: ids of the objects that get ADD-S; by default those of the data set's tables (LM and LM-O: eggbox and glue,
            LM also bowl and cup), or those with symmetries in models_info.json.
        flip_eggbox: turn an estimate of LINEMOD's eggbox by 180 degrees about its Z axis where its rotation is off by more
            than 90 degrees, as the code of CDPN and EPro-PnP does before every error. Off by default: it takes the truth.

    Returns:
        {"add_s": {"0.02", "0.05", "0.1", "mean"}, "add_s_linemod": the same or None, "deg_cm": {"1" ... "10"},
        "projection": {"2", "5", "10", "20"}, "auc_add_s": {"voc", "step"}, "auc_adi": {"voc", "step"}, "per_object":
        {"1": the same and "targets"}, "targets": instances to find, "about": ...}; `table.text` prints it.
        Fractions in [0, 1]; an instance without an estimate counts as missed, an error equal to the threshold as too large.
        "add_s" takes shares of the diameter in models_info.json (BOP), "add_s_linemod" of those distributed with LINEMOD,
        which differ by up to 7 %; None for other data sets. "auc_adi" has ADD-S for every object (AUC-S of the YCB-Video
        tables), "auc_add_s" ADD-S only for the symmetric ones (AUC(-S)).

    Raises:
        FileNotFoundError, ValueError: as `protocol.evaluate`; two instances of one object in a picture; a targets file
            without objects; `flip_eggbox` for another data set.

    Source: Hinterstoisser et al., ACCV 2012 (ADD, ADD-S); Shotton et al., CVPR 2013 (5 degrees 5 cm); Brachmann et al., CVPR
    2016 (projection); Xiang et al., RSS 2018 (AUC); the set of thresholds as in EPro-PnP, Chen et al., CVPR 2022.
    """
    data = open_data(results, data_dir, targets, split=split, models=models)
    if data.wanted.obj_id is None:
        raise ValueError("the classic protocol asks for known objects; the targets file names images only (BOP'24 form)")
    name = _data_set(results, Path(data_dir))
    linemod = LINEMOD_DIAMETERS if name in ("lm", "lmo") else {}
    if flip_eggbox and not linemod:
        raise ValueError(f"flip_eggbox belongs to the eggbox of LINEMOD (lm, lmo), this data set is {name!r}")
    pairs = _pairs(data)
    objects = read_objects(data.models, pairs)
    if symmetric is None:
        symmetric = SYMMETRIC.get(name, [i for i, model in objects.items() if model.symmetric])
    chosen = sorted(set(symmetric) & set(objects))
    measured = {
        i: _errors(data, model, *pairs[i], i in chosen, flip_eggbox and i == EGGBOX) for i, model in sorted(objects.items())
    }
    bop_diameters = {i: model.diameter for i, model in objects.items()}

    def recalls(ids: Collection[int]) -> dict[str, Any]:
        return _scores({i: measured[i] for i in ids}, bop_diameters, linemod)

    report = recalls(measured)
    report["per_object"] = {str(i): recalls([i]) | {"targets": len(e.add_s)} for i, e in measured.items()}
    report["targets"] = sum(len(e.add_s) for e in measured.values())
    ids = ", ".join(map(str, chosen)) or "none"
    report["about"] = {
        "protocol": "classic: objects known to be there, the best-scored estimate of each",
        "targets_file": str(data.targets_file) if data.targets_file else None,
        "models": str(data.models),
        "split": str(data.split),
        "images": len({*zip(data.wanted.scene_id.tolist(), data.wanted.im_id.tolist())}),
        "estimates": len(data.rows.score),
        "missing": int(sum((~np.isfinite(e.centimetres)).sum() for e in measured.values())),
        "flip_eggbox": flip_eggbox,
        "diameters": {
            "bop": {str(i): d for i, d in sorted(bop_diameters.items())},
            "linemod": {str(i): linemod[i] for i in sorted(objects)} if linemod else None,
        },
        "thresholds": {
            "add_s": f"of the diameter in {data.models.name}/models_info.json; ADD-S for {ids}",
            "add_s_linemod": "of the diameters distributed with LINEMOD (PVNet, RNNPose)",
            "auc_add_s": f"0 to {AUC_LIMIT:g} m; voc as in the YCB-Video tables, step is the exact area",
            "deg_cm": "degrees and cm; plain rotation error, symmetries not considered"
            + (", eggbox flipped where that is nearer" if flip_eggbox else ""),
            "projection": "mean distance of the projected model points, pixels of the picture"
            + (", eggbox flipped where that is nearer" if flip_eggbox else ""),
        },
    }
    return report


def _data_set(results: records.PathLike | bop_results.Results, folder: Path) -> str:
    """The short name of the data set, from the name of the result file, else from its folder."""
    if not isinstance(results, bop_results.Results):
        try:
            return bop_results.parse_results_name(results).dataset
        except ValueError:
            pass
    return folder.resolve().name


def _pairs(data: Data) -> dict[int, tuple[Array, Array]]:
    """Object -> rows of its estimates (-1: none) and of its truths, one pair per instance to find, (N,) each."""
    best: dict[tuple[int, int, int], int] = {}
    for row in np.argsort(-data.rows.score, kind="stable").tolist():
        best.setdefault((int(data.rows.scene_id[row]), int(data.rows.im_id[row]), int(data.rows.obj_id[row])), row)
    true: dict[tuple[int, int, int], int] = {}
    wanted = data.wanted
    assert wanted.obj_id is not None
    requested = dict.fromkeys(zip(wanted.scene_id.tolist(), wanted.im_id.tolist(), wanted.obj_id.tolist()))
    for row, key in enumerate(zip(data.truth.scene_id.tolist(), data.truth.im_id.tolist(), data.truth.obj_id.tolist())):
        if key in true and key in requested:
            raise ValueError(
                f"scene {key[0]}, image {key[1]} shows object {key[2]} more than once, which the classic protocol does not "
                "know; use BOP's (--protocol bop)"
            )
        true[key] = row
    pairs: dict[int, list[tuple[int, int]]] = {}
    for key in requested:
        if key in true:
            pairs.setdefault(key[2], []).append((best.get(key, -1), true[key]))
    return {i: (np.array([p[0] for p in some]), np.array([p[1] for p in some])) for i, some in pairs.items()}


def _errors(data: Data, model: Object, est: Array, true: Array, symmetric: bool, flip: bool) -> _Errors:
    out = _Errors(*(np.full(len(est), np.inf) for _ in _Errors._fields))
    there = est >= 0
    P, Q = data.poses[est[there]], data.truth.pose[true[there]]
    if flip:
        away = errors.rotation(P, Q) > np.pi / 2
        P[away] = P[away] @ _FLIP
    limit = max(max(ADD_THRESHOLDS) * 1.1 * model.diameter, AUC_LIMIT)  # LINEMOD's diameters may be larger
    out.adi[there] = errors.add_s(P, Q, model.points, limit=limit)
    out.add_s[there] = out.adi[there] if symmetric else errors.add(P, Q, model.points)
    out.degrees[there] = np.degrees(errors.rotation(P, Q))
    out.centimetres[there] = 100 * errors.translation(P, Q)
    out.pixels[there] = errors.projection(P, Q, model.points, data.truth.K[true[there]])
    return out


def _scores(measured: Mapping[int, _Errors], bop_d: Mapping[int, float], linemod: Mapping[int, float]) -> dict[str, Any]:
    """Recalls and areas of some objects together, every instance counting the same; None where there is nothing to find."""
    each = _Errors(*(np.concatenate([np.zeros(0), *column]) for column in zip(*measured.values())))
    n = len(each.add_s)

    def recall(good: Array) -> float | None:
        return float(good.mean()) if n else None

    def add_s(diameters: Mapping[int, float]) -> dict[str, float | None]:
        share = np.concatenate([np.zeros(0), *(e.add_s / diameters[i] for i, e in measured.items())])
        hits = {f"{t:g}": recall(share < t) for t in ADD_THRESHOLDS}
        return hits | {"mean": float(np.mean([*hits.values()])) if n else None}  # type: ignore[arg-type]

    def area(metres: Array) -> dict[str, float | None]:
        both = (("voc", scores.auc_voc), ("step", scores.auc_step))
        return {name: function(metres, AUC_LIMIT) if n else None for name, function in both}

    worse = np.maximum(each.degrees, each.centimetres)
    return {
        "add_s": add_s(bop_d),
        "add_s_linemod": add_s(linemod) if linemod else None,
        "deg_cm": {str(k): recall(worse < k) for k in DEG_CM},
        "projection": {str(k): recall(each.pixels < k) for k in PIXELS},
        "auc_add_s": area(each.add_s),
        "auc_adi": area(each.adi),
    }
