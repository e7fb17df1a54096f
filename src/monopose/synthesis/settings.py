"""How the pictures of a folder are made, noted in synth.json, so that pictures of two kinds are not mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io.files import write_json
from ..io.records import read_json
from . import scene as synth


def photo_folder(folder: str | Path | None) -> str | None:
    """A short name for the photos of a folder, wherever it lies: their number, and a digest of names and sizes."""
    if folder is None:
        return None
    files = [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in synth.background_files(folder)]
    return f"{len(files)} photos {hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]}"


def note(out: Path, settings: Mapping[str, Any], made: bool) -> None:
    """Write synth.json; ValueError if there are pictures (`made`) that were made otherwise, or not here."""
    file = out / "synth.json"
    now = json.loads(json.dumps(settings))
    if made:
        if not file.is_file():
            raise ValueError(f"{out} holds files that were not made here (no synth.json); choose another folder")
        check_same(out, read_json(file), now)
    write_json(file, now)


def check_same(where: Path, before: Mapping[str, Any], now: Mapping[str, Any], other: str = "another folder") -> None:
    """ValueError where a setting differs. What `before` lacks, the version that started did not know; `other`: what to try."""
    for name, value in now.items():
        if before.get(name, value) != value:
            what = f"other {name}" if isinstance(value, dict) else f"{name} {before[name]}, now it is {value}"
            raise ValueError(
                f"{where} was started with {what}: pictures of two kinds would be mixed; give the same again, or {other}"
            )
