"""`monopose push`: a run on the Hugging Face hub, with a card that says what it is, what it learned from and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import __version__, weights
from ..io import hub, records

_REPORTED = (
    ("right", "{:.0%} of the visible objects right"),
    ("median_mm", "median error {:.1f} mm"),
    ("median_deg", "{:.1f}°"),
)


def push(run: str | Path, name: str, *, licence: str, private: bool = False) -> dict[str, Any]:
    """Copy what a run needs to the hub, in one commit; makes the repository if it is not there.

    Args:
        run: a run folder.
        name: "org/name" of the repository.
        licence: of weights and CAD models, an identifier of the hub: "apache-2.0", "cc-by-nc-4.0", "other".
        private: make the repository private. One that is there stays what it is.

    Returns:
        "url", "files" that are there now, "commit".

    Raises:
        FileNotFoundError, ValueError: no such run, no such name.
        PermissionError: no login (hf auth login), or one that may not write there.
        ConnectionError: no network.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = weights.find_run(run)
    repo = hub.hub_name(name)
    if repo is None or repo.revision != "main":
        raise ValueError(f'expected the name of a repository, "org/name", that is no folder here, got {name!r}')
    files = files_of(folder)
    content = [CommitOperationAdd(file, folder / file) for file in files]
    content.append(CommitOperationAdd("README.md", card(folder, name, licence).encode()))
    api = HfApi(endpoint=hub.ENDPOINT)
    hub.asked(lambda: api.create_repo(name, private=private, exist_ok=True), repo)
    words = f"monopose {__version__}: {', '.join(weights.weights_in(folder))}"
    done = hub.asked(lambda: api.create_commit(name, content, commit_message=words), repo)
    return {"url": f"{api.endpoint}/{name}", "files": [*files, "README.md"], "commit": done.oid}


def files_of(folder: Path) -> list[str]:
    """What of a run folder is needed to predict, and the figures of its report: names relative to it."""
    left_out = {f"{method}.json" for method in weights.weights_in(folder)}  # paths of whoever trained it
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in found if hub.FILES.fullmatch(name) and name not in left_out]


def card(run: str | Path, name: str, licence: str) -> str:
    """The model card of a run: Markdown with the hub's YAML head.

    Args:
        run: a run folder.
        name: "org/name", for the command lines in it.
        licence: an identifier of the hub.

    Raises:
        FileNotFoundError, ValueError: no such run; no such identifier.
    """
    folder = weights.find_run(run)
    if not licence or not all(c.isalnum() or c in ".-" for c in licence):
        raise ValueError(f'expected the identifier of a licence, as "apache-2.0", "cc-by-4.0", "other", got {licence!r}')
    networks = [weights.read(path) for path in weights.weights_in(folder).values()]
    title = name.rpartition("/")[2]
    tags = ["6d-pose", "pose-estimation", *(network.method for network in networks)]
    lines = ["---", f"license: {licence}", "library_name: monopose", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
    lines += [f"# {title}", "", "Poses from one RGB picture with monopose.", ""]
    lines += ["```python", "import monopose", "", f'model = monopose.load("{name}")']
    lines += ['found = model("photo.jpg", camera="camera.json")', "```", ""]
    lines += _objects(folder, networks)
    lines += _scores(folder)
    lines += ["## Networks", "", "| | parameters | trained | from | with |", "|---|---|---|---|---|"]
    lines += [_row(network) for network in networks]
    for network in networks:
        inside = json.dumps(network.config, indent=1)
        summary = f"<details><summary>Configuration of {network.method}</summary>"
        lines += ["", summary, "", "```json", inside, "```", "</details>"]
    return "\n".join(lines) + "\n"


def _objects(folder: Path, networks: list[weights.Checkpoint]) -> list[str]:
    """Names and sizes of the known objects."""
    labels = sorted({label for network in networks for label in network.labels})
    if not labels:
        return []
    places = [folder / "objects", folder]
    names, info = (
        next((records.mapping(records.read_json(p / file), file) for p in places if (p / file).is_file()), {})
        for file in ("names.json", "models_info.json")
    )
    rows = []
    for label in labels:
        known = records.mapping(info.get(str(label), {}), "models_info.json")
        size = f"{known['diameter']:.1f} mm" if isinstance(known.get("diameter"), (int, float)) else "-"
        kinds = ("symmetries_discrete", "symmetries_continuous")
        symmetric = "yes" if any(known.get(kind) for kind in kinds) else "no" if known else "-"
        rows.append(f"| {label} | {names.get(str(label), f'object {label}')} | {size} | {symmetric} |")
    return ["## Objects", "", "| | name | diameter | symmetric |", "|---|---|---|---|", *rows, ""]


def _scores(folder: Path) -> list[str]:
    """What `monopose report` found, and whether scores are probabilities."""
    lines = ["## How good it is", ""]
    file = folder / "report.json"
    if file.is_file():
        report = records.mapping(records.read_json(file), str(file))
        figures = [text.format(report[key]) for key, text in _REPORTED if isinstance(report.get(key), (int, float))]
        what = report.get("pictures", "held-out pictures")
        lines += [f"`monopose report` ({what}, {report.get('targets', '?')} objects): {', '.join(figures)}.", ""]
    else:
        lines += ["Not measured: `monopose report RUN` had not been run.", ""]
    calibrated = (folder / "calibration.json").is_file()
    return [*lines, f"Scores are {'calibrated probabilities' if calibrated else 'raw, not probabilities'}.", ""]


def _row(network: weights.Checkpoint) -> str:
    """A network's line of the table. Of folders only the last name: paths are nobody's business."""
    count = sum(value.numel() for value in network.state.values())
    notes = network.notes
    data = notes.get("data", "")
    if data.startswith("["):
        data = ", ".join(Path(str(source[0])).name for source in json.loads(data))
    elif data.startswith("{"):
        data = "-"
    init = notes.get("init", "")
    start = f"start: {Path(init).name}" if init else ""
    minutes = f"{float(notes['minutes']):.0f} min" if "minutes" in notes else "-"
    amount = ", ".join(filter(None, [minutes, f"{notes['steps']} steps" if "steps" in notes else "", notes.get("device", "")]))
    return f"| {network.method} | {count:,} | {amount} | {data or 'renderings of the CAD models'} | {start or '-'} |"
