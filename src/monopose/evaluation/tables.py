"""The report of `protocol.evaluate` or `classic.evaluate` as a table for people; figures in percent, a row per object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .calibration import EVENT, Reliability

_COLUMNS = (  # heading, path in the report
    ("AR", ("ar", "mean")),
    ("MSSD", ("ar", "mssd")),
    ("MSPD", ("ar", "mspd")),
    ("VSD", ("ar", "vsd")),
    ("AP", ("ap", "mean")),
    ("0.02d", ("add_s", "0.02")),
    ("0.05d", ("add_s", "0.05")),
    ("0.1d", ("add_s", "0.1")),
    ("0.02L", ("add_s_linemod", "0.02")),
    ("0.05L", ("add_s_linemod", "0.05")),
    ("0.1L", ("add_s_linemod", "0.1")),
    ("AUC", ("auc_add_s", "voc")),
    ("AUC-S", ("auc_adi", "voc")),
    ("2°2cm", ("deg_cm", "2")),
    ("5°5cm", ("deg_cm", "5")),
    ("10°10cm", ("deg_cm", "10")),
    ("2px", ("projection", "2")),
    ("5px", ("projection", "5")),
    ("10px", ("projection", "10")),
    ("20px", ("projection", "20")),
)


def text(report: Mapping[str, Any]) -> str:
    """The report in words and columns.

    Args:
        report: what `protocol.evaluate` or `classic.evaluate` returns; scores that are missing or None show as "-", columns
            without any are left out.

    Returns:
        a row per object, the mean of these rows, and all targets together, which is what the report's own numbers are.
    """
    objects = {f"object {i}": scores for i, scores in report.get("per_object", {}).items()}
    columns = [c for c in _COLUMNS if any(_at(scores, c[1]) is not None for scores in (report, *objects.values()))]
    rows = [(name, scores.get("targets"), [_at(scores, path) for _, path in columns]) for name, scores in objects.items()]
    if len(objects) > 1:
        rows.append(("mean of objects", None, [_mean([row[2][k] for row in rows]) for k in range(len(columns))]))
    rows.append(("all targets", report.get("targets"), [_at(report, path) for _, path in columns]))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'percent':{width}}  {'targets':>7}" + "".join(f"  {name:>{max(len(name), 5)}}" for name, _ in columns)]
    for n, (name, targets, values) in enumerate(rows):
        if n == len(objects) and n:
            lines.append("-" * len(lines[0]))
        cells = (f"  {_percent(v):>{max(len(c[0]), 5)}}" for v, c in zip(values, columns))
        lines.append(f"{name:{width}}  {'' if targets is None else targets:>7}" + "".join(cells))
    return "\n".join([*lines, "", *_about(report.get("about", {}))])


def reliability_text(found: Reliability) -> str:
    """Scores against what came true: a row per bin that holds estimates, and the sums below."""
    lines = [f"{'score':>9}  {'estimates':>9}  {'mean score':>10}  {'right':>6}  95 % interval"]
    for b in found.bins:
        if b.estimates:
            cells = f"{b.estimates:9d}  {b.score:10.3f}  {b.right:6.3f}  {b.lower:.3f} to {b.upper:.3f}"
            lines.append(f"{b.low:.1f} - {b.high:.1f}  {cells}")
    return "\n".join(
        [
            *lines,
            f"{found.estimates} estimates, mean score {found.score:.3f}, {found.right:.3f} right ({EVENT})",
            f"expected calibration error {found.ece:.3f}, in bins of equal counts {found.ace:.3f}",
            f"Brier score {found.brier:.3f}, log-loss {found.log_loss:.3f}",
        ]
    )


def _about(about: Mapping[str, Any]) -> list[str]:
    """What the columns mean and where the numbers come from."""
    limits = about.get("thresholds", {})
    lines = [f"AR           {about['ar_mean']}"] if "ar_mean" in about else []
    lines += [f"AP           {about['ap']}"] if "ap" in about else []
    lines += [f"0.02d ...    recall of ADD(-S), {limits['add_s']}"] if "add_s" in limits else []
    if about.get("diameters", {}).get("linemod"):
        lines += [f"0.02L ...    recall of ADD(-S), {limits['add_s_linemod']}"]
    both = "; AUC-S takes ADD-S for every object" if "projection" in limits else ""
    lines += [f"AUC          of ADD(-S), {limits['auc_add_s']} (in the JSON){both}"] if "auc_add_s" in limits else []
    lines += [f"n°n cm       {limits['deg_cm']}"] if "deg_cm" in limits else []
    lines += [f"2px ...      {limits['projection']}"] if "projection" in limits else []
    lines += [f"protocol     {about['protocol']}; {about['missing']} have none"] if "protocol" in about else []
    if "images" in about:
        seconds = about.get("seconds_per_image")
        each = "" if seconds is None else f", {seconds:.3g} s per image as the file says"
        lines.append(f"{about['estimates']} estimates on {about['images']} images{each}; truth: {about['split']}")
    if (missing := about.get("missing")) and isinstance(missing, Mapping):
        lines.append(f"no estimate  {missing_text(missing)}")
    lines += [f"note         {doubt}" for doubt in about.get("doubts", ())]
    return lines


def missing_text(missing: Mapping[str, int]) -> str:
    """How many instances to find have no estimate, and why, in words."""
    whys = [f"{missing[why]} {why}" for why in ("no box", "box but no pose", "filtered") if missing[why]]
    if missing["unknown"]:
        whys.append(
            f"of {missing['unknown']} the result file does not tell why" if whys else "the result file does not tell why"
        )
    return f"{missing['without']} of {missing['instances']} targets" + (f": {', '.join(whys)}" if whys else "")


def _at(scores: Mapping[str, Any], path: tuple[str, str]) -> float | None:
    value = (scores.get(path[0]) or {}).get(path[1])
    return None if value is None else float(value)


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
