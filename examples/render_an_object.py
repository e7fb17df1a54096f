"""Draw a CAD model from anywhere: picture, depth, object coordinates. No OpenGL, no display.

python examples/render_an_object.py part.stl --unit mm
"""

import argparse
import math
from pathlib import Path

import torch

import monopose
from monopose.geometry import camera, se3, viewpoints
from monopose.render.scene import render_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mesh", type=Path)
    parser.add_argument("--unit", default=None, help="unit of the file: m, cm, mm, inch")
    parser.add_argument("--out", type=Path, default=Path("out/render.png"))
    args = parser.parse_args()

    model = monopose.load_mesh(args.mesh, unit=args.unit)  # metres from here on
    size = (240, 320)
    K = camera.K_from_fov(math.radians(50), size)
    distance = 2.2 * model.diameter
    pictures = []
    for direction in viewpoints.fibonacci_sphere(6):
        cam_from_obj = se3.from_rt(viewpoints.look_at(direction), torch.tensor([0.0, 0.0, distance]))
        scene = render_scene([model], cam_from_obj[None], K, size)
        coordinates = monopose.viz.coordinate_image(scene.coordinates, scene.index >= 0, model.bounds)
        pictures += [scene.image, monopose.viz.value_image(scene.depth, mask=scene.index >= 0), coordinates]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    monopose.viz.contact_sheet(pictures, columns=6).save(args.out)
    print(f"{model.name}, {1000 * model.diameter:.0f} mm across: {args.out}")


if __name__ == "__main__":
    main()
