"""The picture of docs/troubleshooting.md: one photo of the demo with its true poses, and with five usual mistakes.

python tools/draw_troubles.py        # writes docs/images/troubles.jpg
"""

import math
from dataclasses import replace
from pathlib import Path

import torch

from monopose import viz
from monopose.commands import demo
from monopose.datasets.bop import models as bop_models
from monopose.datasets.bop import scenes
from monopose.geometry.rotation import so3_exp
from monopose.types import Camera, PoseEstimates


def turned(poses: torch.Tensor, axis: int, degrees: float) -> torch.Tensor:
    """Poses of objects that are turned about an axis of their own."""
    motion = torch.eye(4, dtype=poses.dtype)
    motion[:3, :3] = so3_exp(math.radians(degrees) * torch.eye(3, dtype=poses.dtype)[axis])
    return poses @ motion


def main() -> None:
    models = bop_models.read_models(demo.folder() / "objects")
    frame = scenes.read_frame(scenes.open_scene(demo.folder() / "photos" / "test" / "000001"), 1)
    truth = frame.instances
    names = {i: m.name for i, m in models.items()}
    right = PoseEstimates(truth.labels, truth.cam_from_obj, torch.ones(len(truth)), names=names)
    poses, camera = right.cam_from_obj, frame.camera
    far = poses.clone()  # another focal length moves all along the line of sight
    far[:, 2, 3] *= 1.6
    zoomed = replace(frame, camera=Camera(camera.K * torch.tensor([[1.6, 1, 1], [1, 1.6, 1], [1, 1, 1]]), camera.size))
    small = {i: replace(m, vertices=m.vertices / 2.54, diameter=m.diameter / 2.54) for i, m in models.items()}
    swapped = {i: m if m.colors is None else replace(m, colors=m.colors.flip(-1)) for i, m in models.items()}
    panels = [
        ("right", viz.draw(frame, right, models)),
        ("focal length 1.6 times: fits, but look at the distances", viz.draw(zoomed, replace(right, cam_from_obj=far), models)),
        ("unit: cm for inch", viz.draw(frame, right, small)),
        ("axis: y up for z up", viz.draw(frame, replace(right, cam_from_obj=turned(poses, 0, 90)), models)),
        ("colour: BGR for RGB", viz.draw(frame, right, swapped)),
        ("symmetry: half a turn", viz.draw(frame, replace(right, cam_from_obj=turned(poses, 2, 180)), models)),
    ]
    whole = viz.contact_sheet([picture for _, picture in panels], [words for words, _ in panels], columns=3, width=440)
    out = Path(__file__).parents[1] / "docs" / "images" / "troubles.jpg"
    whole.save(out, quality=80)
    print(out)


if __name__ == "__main__":
    main()
