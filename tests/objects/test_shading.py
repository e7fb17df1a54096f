"""Light on a CAD model: what it explains of a photo, and that a pose goes to where it explains most."""

import math

import numpy as np
import pytest
import torch
import trimesh

from monopose.geometry import boxes as box_ops
from monopose.geometry import camera as camera_ops
from monopose.geometry import rotation, se3
from monopose.mesh.loading import from_triangles
from monopose.objects import shading
from monopose.synthesis import fused
from monopose.types import ObjectModel
from shapes import box

SIZE = 160
K = torch.tensor([[400.0, 0, 80], [0, 400, 80], [0, 0, 1]])
POSE = se3.from_rt(rotation.so3_exp(torch.tensor([0.7, -0.5, 0.4])), torch.tensor([0.01, -0.005, 0.4]))


def model_of(mesh: trimesh.Trimesh) -> ObjectModel:
    return from_triangles(mesh.vertices[mesh.faces], obj_id=1)


@pytest.fixture(scope="module")
def part() -> ObjectModel:
    """A block with a bore, a foot and a bump: no symmetry."""
    block = trimesh.creation.box((0.06, 0.04, 0.03))
    foot = trimesh.creation.box((0.02, 0.05, 0.02))
    foot.apply_translation((0.02, 0.01, 0.02))
    bump = trimesh.creation.icosphere(2, 0.015)
    bump.apply_translation((-0.02, 0.0, 0.015))
    return model_of(trimesh.util.concatenate([block, foot, bump]))


def photo(model: ObjectModel, pose: torch.Tensor, light: np.ndarray) -> torch.Tensor:
    """An object under light, (3, 9) in harmonics, before middle grey."""
    normal, albedo, shown = fused.surface(model, pose.double().numpy(), K.double().numpy(), SIZE)
    x, y, z = normal.astype(np.float64)
    harmonics = np.stack([np.ones_like(x), x, y, z, x * y, y * z, x * z, z * z, x * x - y * y])
    lit = albedo * np.einsum("cb,bhw->chw", light, harmonics)
    return torch.from_numpy(np.where(shown, lit, 0.5)).float()


def around(model: ObjectModel, pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A crop around an object, and that all of it is seen."""
    corners = camera_ops.project(se3.transform(pose, model.corners), K)
    return box_ops.square(box_ops.from_points(corners)[None], 1.3), torch.ones(1, 48, 48)


LAMP = np.array([1.0, 0.3, -0.5, -0.6, 0, 0, 0, 0, 0]) * np.array([[0.5], [0.6], [0.7]])


def test_what_light_falls_on_is_what_the_headlight_shows(part: ObjectModel) -> None:
    """`fused.prior` lights the same surface: ambient 0.35 and 0.65 times the cosine to the camera's axis."""
    normal, albedo, shown = fused.surface(part, POSE.double().numpy(), K.double().numpy(), SIZE)
    prior = fused.prior(part, POSE.double().numpy(), K.double().numpy(), SIZE)
    assert np.array_equal(shown, prior[0] > 0)
    assert np.allclose(np.linalg.norm(normal[:, shown], axis=0), 1, atol=1e-5)
    assert np.allclose(albedo * (0.35 + 0.65 * np.maximum(-normal[2], 0)), prior[2:], atol=1e-5)
    assert not normal[:, ~shown].any()
    assert not albedo[:, ~shown].any()


def test_light_explains_its_own_photo_whatever_it_is(part: ObjectModel) -> None:
    boxes, seen = around(part, POSE)
    turned = se3.from_rt(rotation.so3_exp(torch.tensor([0.0, 0.6, 0.0])) @ POSE[:3, :3], POSE[:3, 3])
    for light in (LAMP, np.array([0.7, -0.2, 0.1, -0.8, 0.1, 0, -0.1, 0.2, 0]) * np.array([[0.9], [0.5], [0.2]])):
        image = photo(part, POSE, light)
        right, wrong = (float(shading.explained(image, K, p[None], [part], boxes, seen)) for p in (POSE, turned))
        assert right > 0.97
        assert wrong < right - 0.1


@pytest.mark.parametrize("seed", range(4))
def test_a_pose_goes_where_the_shading_is_explained(seed: int) -> None:
    """Of a box whose colours differ from place to place, turned by six degrees and moved."""
    model = box((0.06, 0.04, 0.05))
    boxes, seen = around(model, POSE)
    axis = torch.nn.functional.normalize(torch.randn(3, generator=torch.Generator().manual_seed(seed)), dim=0)
    R = rotation.so3_exp(axis * math.radians(6)) @ POSE[:3, :3]
    start = se3.from_rt(R, POSE[:3, 3] + torch.tensor([0.001, -0.001, 0.002]))
    image = photo(model, POSE, LAMP)
    moved, share = shading.refine(image, K, start[None], [model], boxes, seen)
    assert math.degrees(float(rotation.angle_between(moved[0, :3, :3], POSE[:3, :3]))) < 2
    assert float((moved[0, :3, 3] - POSE[:3, 3]).norm()) < 0.0015
    assert float(share) > float(shading.explained(image, K, start[None], [model], boxes, seen)[0])
    assert torch.allclose(moved[0, :3, :3] @ moved[0, :3, :3].mT, torch.eye(3), atol=1e-5)
    assert moved.dtype == start.dtype


def test_what_hides_the_object_does_not_count(part: ObjectModel) -> None:
    boxes, seen = around(part, POSE)
    image = photo(part, POSE, LAMP)
    column = int(boxes[0, 0] + 0.6 * (boxes[0, 2] - boxes[0, 0]))
    image[:, :, column:] = torch.rand(image[:, :, column:].shape, generator=torch.Generator().manual_seed(0))
    hidden = seen.clone()
    hidden[:, :, 27:] = 0
    share = {
        name: float(shading.explained(image, K, POSE[None], [part], boxes, v))
        for name, v in (("all", seen), ("hidden", hidden))
    }
    assert share["hidden"] > 0.95
    assert share["all"] < 0.5


def test_nothing_to_explain_moves_nothing(part: ObjectModel) -> None:
    """Too few pixels; a photo of one colour; a ball without a texture, whose turn light cannot tell."""
    boxes, seen = around(part, POSE)
    image = photo(part, POSE, LAMP)
    stays, share = shading.refine(image, K, POSE[None], [part], boxes, torch.zeros_like(seen))
    assert torch.equal(stays[0], POSE)
    assert float(share) == 0
    flat, share = shading.refine(torch.full_like(image, 0.4), K, POSE[None], [part], boxes, seen)
    assert torch.isfinite(flat).all()
    assert abs(float(share)) < 0.1
    ball = model_of(trimesh.creation.icosphere(4, 0.03))
    boxes, seen = around(ball, POSE)
    moved, share = shading.refine(photo(ball, POSE, LAMP), K, POSE[None], [ball], boxes, seen)
    assert float(share) > 0.97
    assert math.degrees(float(rotation.angle_between(moved[0, :3, :3], POSE[:3, :3]))) < 1


def test_no_poses_no_answers(part: ObjectModel) -> None:
    none = torch.zeros(0, 4, 4)
    moved, share = shading.refine(torch.zeros(3, 8, 8), K, none, [], torch.zeros(0, 4), torch.zeros(0, 8, 8))
    assert moved.shape == (0, 4, 4)
    assert share.shape == (0,)
