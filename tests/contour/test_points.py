"""Points on silhouettes: where they lie, which way their normals look, how far the other edge is."""

import numpy as np
import pytest
import torch

from monopose.contour import points
from monopose.geometry import se3
from monopose.geometry.viewpoints import fibonacci_sphere, look_at
from shapes import box

K = np.array([[400.0, 0, 99.5], [0, 400.0, 99.5], [0, 0, 1]])
EYE = np.eye(4)


def disc(radius, hole=0.0, side=200, centre=(99.5, 99.5)):
    v, u = np.mgrid[:side, :side]
    r = np.hypot(u - centre[0], v - centre[1])
    return (r < radius) & (r >= hole)


def pixels_of(found, pose=EYE):
    n = found.number[0]
    x = found.centre[0, :n] @ pose[:3, :3].T + pose[:3, 3]
    uv = (x @ K.T)[:, :2] / x[:, 2:]
    return uv, (found.normal[0, :n] @ pose[:3, :3].T)


def test_points_of_a_disc_lie_on_its_rim_and_look_away_from_its_centre():
    mask = disc(60.0)
    found = points.from_mask(mask, np.full(mask.shape, 2.0), K, EYE)
    uv, normal = pixels_of(found)
    away = uv - 99.5
    radius = np.linalg.norm(away, axis=1)
    assert found.number[0] == points.POINTS
    assert abs(radius.mean() - 60) < 0.1
    assert radius.std() < 0.3
    assert ((normal[:, :2] * away).sum(1) / radius > 0.97).all()
    assert np.abs(normal[:, 2]).max() < 1e-12
    assert found.inner[0] * 400 / 2 == pytest.approx(120, abs=4)
    assert np.isinf(found.outer[0]).all()
    assert found.length[0] == pytest.approx(2 * np.pi * 60 * 2 / 400, rel=0.03)


def test_a_hole_has_an_outline_of_its_own_that_looks_into_it():
    mask = disc(80.0, hole=30.0)
    found = points.from_mask(mask, np.full(mask.shape, 1.0), K, EYE, n=400)
    uv, normal = pixels_of(found)
    away = uv - 99.5
    radius = np.linalg.norm(away, axis=1)
    inner = radius < 55
    assert inner.sum() == pytest.approx(400 * 30 / 110, rel=0.1)
    assert radius[inner].mean() == pytest.approx(30, abs=0.15)
    assert ((normal[inner, :2] * away[inner]).sum(1) < 0).all()
    assert found.outer[0, inner] * 400 == pytest.approx(60, abs=3)
    assert found.inner[0, inner] * 400 == pytest.approx(50, abs=3)


def test_the_object_frame_is_that_of_the_pose():
    pose = se3.exp(torch.tensor([0.1, -0.2, 0.3, 0.4, 0.5, -0.6], dtype=torch.float64)).numpy()
    mask = disc(50.0)
    plain = points.from_mask(mask, np.full(mask.shape, 1.5), K, EYE)
    moved = points.from_mask(mask, np.full(mask.shape, 1.5), K, pose)
    assert moved.centre[0] @ pose[:3, :3].T + pose[:3, 3] == pytest.approx(plain.centre[0], abs=1e-12)
    assert moved.normal[0] @ pose[:3, :3].T == pytest.approx(plain.normal[0], abs=1e-12)


@pytest.mark.parametrize("mask", [np.zeros((50, 50), bool), np.ones((50, 50), bool), disc(1.5, side=50, centre=(25, 25))])
def test_without_an_outline_there_are_no_points(mask):
    found = points.from_mask(mask, np.ones(mask.shape), K, EYE)
    assert found.number[0] == 0
    assert np.isfinite(found.centre).all()


def test_an_object_behind_the_camera_has_no_points():
    pose = EYE.copy()
    pose[2, 3] = -1
    assert points.rendered([box()])(pose[None]).number[0] == 0


def test_views_are_the_renderings_of_the_nearest_direction():
    model = box(cells=2)
    views = points.build_views(model, 300, side=200)
    directions = fibonacci_sphere(40, torch.float64)
    R = look_at(directions, torch.linspace(0, 6, 40, dtype=torch.float64))
    poses = se3.from_rt(R, torch.tensor([0.02, -0.03, 0.6], dtype=torch.float64)).numpy()
    rows = points.closest(views, poses)
    seen_from = -(np.swapaxes(poses[:, :3, :3], 1, 2) @ poses[:, :3, 3, None])[..., 0]
    seen_from /= np.linalg.norm(seen_from, axis=1, keepdims=True)
    assert (seen_from * views.directions[rows]).sum(1).min() > np.cos(np.radians(10))
    stored, drawn = points.looked_up([views], [0] * 40)(poses), points.rendered([model] * 40)(poses)
    assert stored.number.min() > 100
    assert stored.length == pytest.approx(drawn.length, rel=0.1)
    for a, b in zip(stored.centre, drawn.centre):  # the rims of both lie on the same edges of the box
        apart = np.linalg.norm(a[:, None] - b[None], axis=-1).min(1)
        assert np.median(apart) < 0.002


def test_views_are_kept_in_a_file_and_made_again_when_it_is_damaged(tmp_path):
    model = box()
    first = points.views_of(model, tmp_path, views=20)
    (file,) = tmp_path.iterdir()
    again = points.views_of(model, tmp_path, views=20)
    for a, b in zip(first.points, again.points):
        assert np.array_equal(a, b)
    assert np.array_equal(first.directions, again.directions)
    file.write_bytes(file.read_bytes()[:1000])
    repaired = points.views_of(model, tmp_path, views=20)
    assert np.array_equal(repaired.points.centre, first.points.centre)
    points.views_of(box(size=(0.1, 0.1, 0.1)), tmp_path, views=20)
    assert len(list(tmp_path.iterdir())) == 2
