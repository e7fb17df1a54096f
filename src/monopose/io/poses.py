"""Poses as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..geometry.rotation import quat_xyzw_from_matrix
from .files import write_json

if TYPE_CHECKING:
    from ..types import Frame, PoseEstimates


UNITS = (
    "metres, radians, pixels; OpenCV camera: x right, y down, z forward; x_cam = cam_from_obj x_obj; quat_xyzw and translation "
    "are the same pose, the quaternion with w last"
)


def pose_records(poses: PoseEstimates) -> list[dict[str, Any]]:
    """One dict of plain numbers per pose: label, name, score, cam_from_obj (4 rows), the same as quat_xyzw and translation,
    covariance and box if known, whether it was refined if that was asked."""
    poses = poses.to("cpu")
    records = []
    for i in range(len(poses)):
        label = int(poses.labels[i])
        record: dict[str, Any] = {"label": label, "name": poses.names.get(label, ""), "score": float(poses.scores[i])}
        pose = poses.cam_from_obj[i].double()
        record["cam_from_obj"] = pose.tolist()
        record["quat_xyzw"] = quat_xyzw_from_matrix(pose[:3, :3]).tolist()
        record["translation"] = pose[:3, 3].tolist()
        if poses.covariance is not None and bool(poses.covariance[i].isfinite().all()):
            record["covariance"] = poses.covariance[i].double().tolist()
        if poses.boxes is not None:
            record["box"] = poses.boxes[i].double().tolist()
        if poses.refined is not None:
            record["refined"] = bool(poses.refined[i])
        records.append(record)
    return records


def frame_record(name: str, frame: Frame, poses: PoseEstimates) -> dict[str, Any]:
    """The poses of one picture with its camera and the seconds they took, whether scores are probabilities, and what was left
    out and why."""
    return {
        "image": frame.path or name,
        "size": list(frame.camera.size),
        "K": frame.camera.K.double().tolist(),
        "seconds": dict(poses.seconds),
        "calibrated": poses.calibrated,
        "poses": pose_records(poses),
        "dropped": [d._asdict() for d in poses.dropped],
    }


def poses_of(rows: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]) -> PoseEstimates:
    """The poses of `pose_records`, without covariances and boxes."""
    import torch

    from ..types import PoseEstimates

    labels = torch.tensor([row["label"] for row in rows], dtype=torch.int64)
    poses = torch.tensor([row["cam_from_obj"] for row in rows], dtype=torch.float64).reshape(-1, 4, 4)
    scores = torch.tensor([row["score"] for row in rows], dtype=torch.float64)
    return PoseEstimates(labels, poses, scores, seconds=dict(seconds))


def save_poses(folder: str | Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """`frame_record`s of several pictures as poses.json."""
    path = Path(folder) / "poses.json"
    write_json(path, {"units": UNITS, "images": list(records)})
    return path
