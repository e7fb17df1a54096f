"""Blender shows objects where their poses say, before the background. Only where it is installed."""

import math

import numpy as np
import pytest
import torch

from monopose.geometry import camera as camera_ops
from monopose.render.scene import render_masks
from monopose.synthesis import blender
from monopose.synthesis import scene as synth
from monopose.types import Camera
from shapes import box


def test_the_object_is_drawn_where_its_mask_is(monkeypatch):
    pytest.importorskip("bpy")
    monkeypatch.setattr(blender, "SAMPLES", 2)
    K = camera_ops.K_from_fov(math.radians(60), (96, 128))
    K[0, 2] += 7.0
    K[1, 2] -= 5.0
    K[1, 1] *= 1.1
    camera, model = Camera(K, (96, 128)), box(obj_id=2)
    pose = torch.eye(4)[None]
    pose[0, :3, 3] = torch.tensor([0.03, -0.02, 0.4])
    background = np.full((96, 128, 3), (0, 255, 0), np.uint8)
    picture = blender.render(synth.Layout([model], pose), camera, background, np.random.default_rng(0)).astype(int)
    shown = np.abs(picture - background).sum(-1) > 60
    mask = render_masks([model], pose, camera.K, camera.size).masks_full[0].numpy()
    assert (shown & mask).sum() / (shown | mask).sum() > 0.8  # Blender's filter is wider than a pixel
    there, here = (np.argwhere(m).mean(0) for m in (mask, shown))
    assert np.abs(there - here).max() < 0.4
