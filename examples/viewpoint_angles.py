"""What azimuth, elevation and in-plane rotation do to a chair, and how a network's probabilities of its azimuth are drawn.

python examples/viewpoint_angles.py [viewpoint.png]
"""

import math
import sys

import torch
from PIL import Image

from monopose import viz
from monopose.geometry import boxes, camera, se3, viewpoints
from monopose.geometry.viewpoints import CENTRED
from monopose.render.scene import render_scene
from monopose.synthesis.shapes import furniture
from monopose.viewpoint import viz as viewpoint_viz


def main() -> Image.Image:
    model, size = furniture.shape("chair", 1), (240, 240)
    K = camera.K_from_fov(math.radians(40), size)
    pictures, captions = [], []
    for name, degrees in (
        ("azimuth 0°, elevation 15°", (0, 15, 0)),
        ("azimuth 45°", (45, 15, 0)),
        ("azimuth 90°", (90, 15, 0)),
        ("azimuth 315°", (315, 15, 0)),
        ("azimuth 315°, elevation 45°", (315, 45, 0)),
        ("azimuth 315°, in-plane 20°", (315, 15, 20)),
    ):
        angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        pose = se3.from_rt(viewpoints.rotation_of(angles), torch.tensor([0.0, 0.0, 2.0 * model.diameter]).double()).float()
        paper = torch.full((3, *size), 0.82)
        scene = render_scene([model], pose[None], K, size, background=paper)
        box = boxes.from_masks(scene.masks_visible)
        pictures.append(viewpoint_viz.draw(scene.image, box, angles[None]))
        captions.append(name)
    sheet = viz.contact_sheet(pictures, captions, columns=3, width=240)
    probabilities = torch.tensor([0.08, 0.02, 0.02, 0.02, 0.03, 0.03, 0.18, 0.62])
    estimate, truth = math.radians(321), math.radians(330)
    rose = viewpoint_viz.azimuth_rose(probabilities, CENTRED[0], estimate, truth, "azimuth: where the camera stands")
    return viz.side_by_side([sheet, rose], height=sheet.height)


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "viewpoint.png"
    main().quantize(128).save(path, optimize=True)
    print(path)
