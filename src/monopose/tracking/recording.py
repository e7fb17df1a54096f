"""What a run of the tracker saw, kept so that it can be made again: pictures, cameras, the start, the detector's answers.

A folder with `recording.jsonl`: a line with the start, and whether there is a detector; then for every frame {"frame", "image",
"file", "K"}, the picture lying in pictures/ without loss, and for every answer of the detector {"asked", "arrived", "poses"};
frames are counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..io import images, records
from ..types import Camera, Frame, PoseEstimates
from .background import Answer
from .options import RECORDING


class Recording(NamedTuple):
    """A run that can be made again: whether it had a detector, its answers, start by the row of the model or None, frames."""

    detector: bool
    start: dict[int, Tensor] | None
    frames: Iterator[tuple[str, Frame]]
    answers: list[Answer]


class Recorder:
    """Writes a recording.

    Args:
        folder: made; must not hold another one.
        start: poses that the tracker is given, by the row of the model.
        detector: whether it has a detector.
    """

    def __init__(self, folder: Path, start: Mapping[int, Tensor] | None, detector: bool) -> None:
        self.folder = folder
        if (folder / RECORDING).exists():
            raise ValueError(f"{folder} holds a recording already; give another --record folder")
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        self.file = open(folder / RECORDING, "w", encoding="utf-8")  # noqa: SIM115
        given = None if start is None else {str(i): pose.double().tolist() for i, pose in start.items()}
        self._line({"start": given, "detector": detector})
        self.count = 0

    def frame(self, name: str, frame: Frame) -> Frame:
        """Keep a frame; returns it as it will be read again, with 8 bits a channel."""
        pixels = (frame.image.clamp(0, 1) * 255).round().to(torch.uint8)
        file = f"{self.count:06d}.png"
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy()).save(
            self.folder / "pictures" / file, compress_level=1
        )
        self._line({"frame": self.count, "image": name, "file": file, "K": frame.camera.K.double().tolist()})
        self.count += 1
        return replace(frame, image=pixels.float() / 255)

    def answer(self, answer: Answer) -> None:
        """Keep what the detector found, and when."""
        poses = [
            {"label": label, "score": score, "cam_from_obj": pose}
            for label, score, pose in zip(
                answer.poses.labels.tolist(), answer.poses.scores.double().tolist(), answer.poses.cam_from_obj.double().tolist()
            )
        ]
        self._line({"asked": answer.asked, "arrived": answer.arrived, "poses": poses})

    def close(self) -> None:
        self.file.close()

    def _line(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()


def read(folder: str | Path) -> Recording:
    """A recording.

    Raises:
        FileNotFoundError, ValueError: what is missing or broken, with the line.
    """
    file = Path(folder) / RECORDING
    rows = []
    for n, line in enumerate(records.read_text(file).splitlines(), 1):
        where = f"{file}, line {n}"
        rows.append((where, records.mapping(records.parse_json(line, where), where)))
    if not rows or "start" not in rows[0][1]:
        raise ValueError(f"{file} is no recording: its first line must hold the start; record again")
    given = rows[0][1]["start"]
    start = None if given is None else {int(i): torch.tensor(pose, dtype=torch.float64) for i, pose in given.items()}
    answers = [_answer(row, where) for where, row in rows if "asked" in row]
    return Recording(bool(rows[0][1].get("detector")), start, _frames(Path(folder), rows), answers)


def _frames(folder: Path, rows: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, Frame]]:
    for where, row in rows:
        if "frame" not in row:
            continue
        image = images.read_image(folder / "pictures" / records.text(row, "file", where))
        K = torch.from_numpy(records.numbers(row, "K", (3, 3), where)).float()
        yield records.text(row, "image", where), Frame(image, Camera(K, (int(image.shape[1]), int(image.shape[2]))))


def _answer(row: dict[str, Any], where: str) -> Answer:
    found = records.rows(records.value(row, "poses", where), where)
    poses = [torch.tensor(records.numbers(p, "cam_from_obj", (4, 4), where).tolist(), dtype=torch.float64) for p in found]
    labels = [records.whole(records.value(p, "label", where), where) for p in found]
    return Answer(
        records.whole(row["asked"], where), records.whole(records.value(row, "arrived", where), where),
        PoseEstimates(
            torch.tensor(labels, dtype=torch.int64), torch.stack(poses) if poses else torch.zeros(0, 4, 4, dtype=torch.float64),
            torch.tensor([float(p["score"]) for p in found]),
        ),
    )  # fmt: skip
