"""Draw the figure of docs/refiner.md: the refinement of a demo object, step by step.

    python tools/draw_refinement.py docs/images/refiner.png

The loop is the real one. In place of the trained network stands one that knows the true pose and closes 60 % of the way in each
step, so that there is something to see.
"""

import functools
import math
import sys

import torch

from monopose.commands import demo
from monopose.datasets.bop import models, scenes
from monopose.geometry import se3
from monopose.objects import refinement, refiner, viz
from monopose.render.scene import render_masks
from monopose.types import PoseEstimates

TINY = {
    "pretrained": False, "features": 16, "hidden": 16, "motion": 16, "context": 16, "descriptor": 8, "surface_points": 64,
    "surface_width": 16, "levels": 2, "radius": 2,
}  # fmt: skip


class Knows(refiner.Model):
    """In place of a network one that knows the true pose and what the photo shows of one object.

    A step closes a share of the field, as a network that has learned does; with the whole of it, one step would do.
    """

    def __init__(self, config, truth, visible, share):
        super().__init__(config)
        self.truth, self.visible, self.share = truth, visible, share

    def _step(self, now, cells, hidden, pose):
        here = refiner._project(now.coordinates, pose, now.K)
        goal = refiner._project(now.coordinates, self.truth[None], now.K)
        change = self.share * (goal - here)
        side = (now.boxes[:, 2:] - now.boxes[:, :2])[:, None, None] / now.rendered.shape[-1]
        place = (now.boxes[:, None, None, :2] + (goal + 0.5) * side - 0.5).round().long()
        h, w = self.visible.shape
        inside = (place >= 0).all(-1) & (place[..., 0] < w) & (place[..., 1] < h)
        seen = now.mask & inside & self.visible[place[..., 1].clamp(0, h - 1), place[..., 0].clamp(0, w - 1)]
        weights = seen[..., None].float().expand_as(here)
        after = refiner._solve(now, here + change, weights, pose, self.config.damping)
        o = self.known
        far = refiner._distance(pose, self.truth[None], o.points[None]) / o.model.diameter
        said = (change.movedim(-1, 1), here + change, 20 * seen.float() - 10, seen.float(), weights, (far + 1e-6).log())
        now.steps.append(refiner.Step(pose, after, *said))
        return hidden

    def cached_object(self, model):
        self.known = super().cached_object(model)
        return self.known


@functools.cache
def scene(picture=0, label=2, share=0.6, **changes):
    """A bundled picture, one of its objects with a start that is off, and how it is refined."""
    objects = models.read_models(demo.folder() / "objects")
    opened = scenes.open_scene(demo.folder() / "photos/test/000001")
    frame = scenes.read_frame(opened, int(opened.im_ids[picture]))
    (row,) = (frame.instances.labels == label).nonzero()[:, 0].tolist()
    truth = frame.instances.cam_from_obj[row]
    config = refiner.Config(**{**TINY, "crop_size": 128, "finer": 2, "outer": 2, "inner": 2, **changes})
    torch.manual_seed(0)
    shapes = [objects[int(i)] for i in frame.instances.labels]
    shown = render_masks(shapes, frame.instances.cam_from_obj, frame.camera.K, frame.camera.size).masks_visible[row]
    network = Knows(config, truth, shown, share).eval()
    generator = torch.Generator().manual_seed(3)
    start = se3.perturbed(truth, math.radians(15), 0.15 * objects[label].diameter, 1.5, generator)
    poses = PoseEstimates(torch.tensor([label]), start[None], torch.ones(1), names={label: objects[label].name})
    result, traces = refinement.predict_traced(network, frame, poses, objects)
    return frame, traces[0], result, truth


if __name__ == "__main__":
    photo, course, _, _ = scene(0, 1, 0.6)
    viz.strip(photo, course, 150).save(sys.argv[1])
    print(sys.argv[1])
