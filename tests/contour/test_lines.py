"""Lines across a contour and the pose step: against the plain twin, finite differences, and shapes of known pose."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monopose.contour import lines, points
from monopose.geometry import se3
from monopose.render.raster import rasterize
from shapes import box

SIDE = 192
K = np.array([[600.0, 0, 95.5], [0, 600.0, 95.5], [0, 0, 1]])


def pose(x=0.0, y=0.0, z=0.6, turn=(0.4, 0.5, 0.2)):
    return se3.exp(torch.tensor([0, 0, 0, *turn], dtype=torch.float64)).numpy() + np.array(
        [[0, 0, 0, x], [0, 0, 0, y], [0, 0, 0, z], [0, 0, 0, 0]]
    )


def silhouette(model, cam_from_obj, K=K, side=SIDE, finer=4):
    """How much of every pixel the object covers, (side, side)."""
    fine = K.copy()
    fine[:2, :2] *= finer
    fine[:2, 2] = (K[:2, 2] + 0.5) * finer - 0.5
    seen = se3.transform(torch.from_numpy(cam_from_obj), model.vertices.double())[None].float()
    drawn = rasterize(seen, model.faces, torch.from_numpy(fine), (side * finer,) * 2).face[0] >= 0
    return drawn.float().reshape(side, finer, side, finer).mean((1, 3)).numpy()


def revolved(radius=0.05, height=0.12, around=96):
    """A cone without its tip about the axis z: nothing tells how far it is turned about that."""
    from monopose.types import ObjectModel

    angle = torch.linspace(0, 2 * torch.pi, around + 1)[:-1]
    rings = [
        torch.stack([r * angle.cos(), r * angle.sin(), torch.full_like(angle, z)], -1)
        for r, z in ((radius, -height / 2), (radius * 0.6, height / 2))
    ]
    i = torch.arange(around)
    j = (i + 1) % around
    sides = torch.cat([torch.stack([i, j, j + around], -1), torch.stack([i, j + around, i + around], -1)])
    caps = torch.cat(
        [
            torch.stack([j, i, torch.full_like(i, 2 * around)], -1),
            torch.stack([i + around, j + around, torch.full_like(i, 2 * around + 1)], -1),
        ]
    )
    ends = torch.tensor([[0, 0, -height / 2], [0, 0, height / 2]])
    vertices = torch.cat([*rings, ends])
    return ObjectModel(1, "cone", vertices, torch.cat([sides, caps]), torch.nn.functional.normalize(vertices, dim=-1), 0.15)


@pytest.fixture(scope="module")
def scene():
    """Two boxes, a noisy map, and lines from poses beside the true ones."""
    rng = np.random.default_rng(0)
    model = box()
    true = np.stack([pose(), pose(0.01, -0.01, 0.7, (1.0, -0.3, 0.8))])
    maps = lines.maps_of(np.stack([silhouette(model, p) for p in true]) * 0.7 + rng.random((2, SIDE, SIDE)) * 0.3)
    start = lines.moved(true, rng.normal(size=(2, 6)) * [0.004, 0.004, 0.01, 0.05, 0.05, 0.05])
    found = points.rendered([model, model])(start)
    return true, start, maps, found, np.stack([K, K])


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_search_equals_its_plain_twin(scene, scale):
    _, start, maps, found, Ks = scene
    fast = lines.search(found, start, Ks, maps, np.array([0, 1]), scale)
    plain = lines.search_reference(found, start, Ks, maps, np.array([0, 1]), scale)
    assert np.array_equal(fast.valid, plain.valid)
    assert fast.valid.sum() > 100
    for a, b in zip(fast, plain):
        assert a[fast.valid] == pytest.approx(b[fast.valid], abs=1e-6)  # maps are float32


@pytest.mark.parametrize("local", [False, True])
def test_normal_equations_equal_their_plain_twin(scene, local):
    _, start, maps, found, Ks = scene
    looked = lines.search(found, start, Ks, maps, np.array([0, 1]), 2)
    here = lines.moved(start, np.full((2, 6), 0.001))
    fast = lines.normal_equations(looked, found, here, Ks, np.array([1.5, 3.0]), local)
    plain = lines.normal_equations_reference(looked, found, here, Ks, np.array([1.5, 3.0]), local)
    for a, b in zip(fast, plain):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-9 * np.abs(b).max())


def test_the_gradient_is_that_of_the_cost(scene):
    _, start, maps, found, Ks = scene
    looked = lines.search(found, start, Ks, maps, np.array([0, 1]), 2)
    sigma = np.array([1.5, 3.0])
    here = lines.moved(start, np.full((2, 6), 0.002))

    def cost(delta):
        return lines.normal_equations(looked, found, lines.moved(here, delta), Ks, sigma, False).cost

    g = lines.normal_equations(looked, found, here, Ks, sigma, False).g
    for k in range(6):
        step = np.zeros((2, 6))
        step[:, k] = 1e-6
        slope = (cost(step) - cost(-step)) / 2e-6
        assert -slope == pytest.approx(g[:, k], rel=1e-5, abs=1e-3)


def test_the_information_is_the_curvature_of_the_cost_where_it_is_least(scene):
    _, start, maps, found, Ks = scene
    looked = lines.search(found, start, Ks, maps, np.array([0, 1]), 2)
    exact = looked._replace(mean=lines._distances(looked, found, start, Ks))  # no residual is left: Gauss-Newton is exact
    sigma = np.array([1.5, 3.0])
    A = lines.normal_equations(exact, found, start, Ks, sigma, False).A
    for k in range(6):
        step = np.zeros((2, 6))
        step[:, k] = 1e-5
        ahead = lines.normal_equations(exact, found, lines.moved(start, step), Ks, sigma, False).g
        behind = lines.normal_equations(exact, found, lines.moved(start, -step), Ks, sigma, False).g
        assert -(ahead - behind) / 2e-5 == pytest.approx(A[:, k], rel=1e-4, abs=1e-4 * np.abs(A).max())


def test_the_local_step_climbs_a_gaussian_as_the_global_one_does(scene):
    _, start, maps, found, Ks = scene
    looked = lines.search(found, start, Ks, maps, np.array([0, 1]), 2)
    settings = lines.Settings()
    d = lines._distances(looked, found, start, Ks)
    between = np.floor(d + (settings.offsets + 1) / 2) - settings.offsets / 2  # half-way between the two that are compared
    mean, variance = between + 1.0, np.full_like(d, 4.0)
    gauss = np.exp(-0.5 * (settings.distances - mean[..., None]) ** 2 / 4)
    made = looked._replace(distribution=gauss, mean=d + 1.0, variance=variance)
    sigma = np.ones(2)
    one = lines.normal_equations(made, found, start, Ks, sigma, True, replace(settings, rate=1.0))
    other = lines.normal_equations(made, found, start, Ks, sigma, False)
    assert one.g == pytest.approx(other.g, rel=1e-9)
    assert np.allclose(one.A, other.A, rtol=1e-9)


def test_a_map_that_says_nothing_moves_nothing(scene):
    _, start, _, _, Ks = scene
    maps = lines.maps_of(np.full((2, SIDE, SIDE), 0.5))
    fitted = lines.fit(points.rendered([box(), box()]), start, Ks, maps)
    assert fitted.cam_from_obj == pytest.approx(start, abs=1e-15)
    assert (fitted.used == 0).all()
    assert fitted.variance == pytest.approx(lines.DEFAULT.uniform_variance)
    assert np.abs(fitted.information).max() == 0


@pytest.mark.parametrize("model", [box(), box((0.1, 0.1, 0.02)), revolved()], ids=["box", "plate", "cone"])
def test_place_and_distance_are_recovered(model):
    true = pose(0.004, -0.006, 0.6)[None]
    maps = lines.maps_of(silhouette(model, true[0])[None])
    shift = 5 / 600 * 0.6
    for delta in ([shift, 0, 0], [0, -shift, 0], [0, 0, 0.03], [shift, shift, -0.03]):
        start = lines.moved(true, np.array([[*delta, 0, 0, 0]]))
        fitted = lines.fit(points.rendered([model]), start, K[None], maps).cam_from_obj
        pixel = (fitted[0, :2, 3] / fitted[0, 2, 3] - true[0, :2, 3] / true[0, 2, 3]) * 600
        assert np.abs(pixel).max() < 0.3
        assert fitted[0, 2, 3] == pytest.approx(0.6, rel=0.004)
        assert np.degrees(np.linalg.norm(lines.difference(fitted, true)[0, 3:])) < 2.0


@pytest.mark.slow
def test_rotations_are_recovered_from_stored_views():
    model = box()
    views = points.build_views(model, 600, side=200)
    rng = np.random.default_rng(1)
    true = np.stack([pose(turn=rng.normal(size=3)) for _ in range(8)])
    maps = lines.maps_of(np.stack([silhouette(model, p) for p in true]))
    start = lines.moved(true, rng.normal(size=(8, 6)) * [0.003, 0.003, 0.01, 0.1, 0.1, 0.1])
    fitted = lines.fit(points.looked_up([views], [0] * 8), start, np.repeat(K[None], 8, 0), maps)
    error = np.degrees(np.linalg.norm(lines.difference(fitted.cam_from_obj, true)[:, 3:], axis=1))
    assert np.degrees(np.linalg.norm(lines.difference(start, true)[:, 3:], axis=1)).mean() > 6
    assert np.median(error) < 1.0
    assert fitted.used.min() > 0.8


def test_an_object_of_revolution_does_not_spin():
    model = revolved()
    true = pose(turn=(1.2, 0.1, 0.3))[None]
    maps = lines.maps_of(silhouette(model, true[0])[None])
    axis = torch.tensor([[0.0, 0.0, 1.0]])
    still = lines.still_of(axis, torch.zeros(1, 3))
    now = lines.moved(true, np.array([[0.003, 0.002, 0.01, 0, 0, 0]]))
    began = now
    for _ in range(20):
        now = lines.fit(points.rendered([model]), now, K[None], maps, still=[still]).cam_from_obj
    turned = began[0, :3, :3].T @ now[0, :3, :3]
    about = np.degrees(np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1]))
    assert abs(about) < 0.03  # radians; 0.018 on one kind of processor
    tilt = (now[0, :3, 2] * true[0, :3, 2]).sum()
    assert np.degrees(np.arccos(min(tilt, 1.0))) < 1.0


def test_twice_the_picture_with_twice_the_scales_gives_the_same_pose():
    model = box()
    true = pose()[None]
    start = lines.moved(true, np.array([[0.003, -0.002, 0.01, 0.05, -0.04, 0.03]]))
    double = K.copy()
    double[:2, :2] *= 2
    double[:2, 2] = (K[:2, 2] + 0.5) * 2 - 0.5
    poses = []
    for k, side, factor in ((K, SIDE, 1), (double, 2 * SIDE, 2)):
        maps = lines.maps_of(silhouette(model, true[0], k, side)[None])
        schedule = [(s * factor, sigma * factor) for s, sigma in lines.TRACK]
        poses.append(lines.fit(points.rendered([model]), start, k[None], maps, schedule=schedule).cam_from_obj)
    apart = lines.difference(*poses)[0]
    assert np.abs(apart[:3]).max() < 0.002
    assert np.degrees(np.abs(apart[3:])).max() < 0.7


def test_a_prior_holds_a_pose_and_adds_its_information(scene):
    _, start, maps, _, Ks = scene
    model = box()
    firm = lines.Prior(start, np.eye(6)[None].repeat(2, 0) * 1e12)
    held = lines.fit(points.rendered([model] * 2), start, Ks, maps, prior=firm)
    assert held.cam_from_obj == pytest.approx(start, abs=1e-5)
    assert np.diagonal(held.information, axis1=1, axis2=2).min() >= 1e12
    loose = lines.Prior(start, np.eye(6)[None].repeat(2, 0) * 1e-6)
    free = lines.fit(points.rendered([model] * 2), start, Ks, maps)
    assert lines.fit(points.rendered([model] * 2), start, Ks, maps, prior=loose).cam_from_obj == pytest.approx(
        free.cam_from_obj, abs=0.01
    )


def test_lines_behind_something_known_do_not_count(scene):
    _, start, maps, found, Ks = scene
    front = np.full(maps.probability.shape, np.inf, np.float32)
    front[0, :, :96] = 0.2
    hidden = lines.search(found, start, Ks, maps._replace(front=front), np.array([0, 1]), 1)
    seen = lines.search(found, start, Ks, maps, np.array([0, 1]), 1)
    left = seen.geometry[0, :, 0] < 95
    assert not hidden.valid[0, left].any()
    assert np.array_equal(hidden.valid[1], seen.valid[1])
    assert hidden.valid[0].sum() == (seen.valid[0] & (seen.geometry[0, :, 0] > 95.4)).sum()


def test_an_instance_behind_the_camera_stays_there():
    behind = pose(z=-0.5)[None]
    maps = lines.maps_of(np.random.default_rng(0).random((1, SIDE, SIDE)))
    fitted = lines.fit(points.rendered([box()]), behind, K[None], maps)
    assert np.array_equal(fitted.cam_from_obj, behind)
    assert fitted.used[0] == 0


def test_moved_and_difference_are_inverse_to_each_other_and_agree_with_se3():
    rng = np.random.default_rng(2)
    here, delta = np.stack([pose(), pose(turn=(2, 1, 0))]), rng.normal(size=(2, 6)) * 0.7
    there = lines.moved(here, delta)
    assert there == pytest.approx(se3.retract(torch.from_numpy(here), torch.from_numpy(delta)).numpy(), abs=1e-12)
    assert lines.difference(there, here) == pytest.approx(delta, abs=1e-9)


def test_an_empty_schedule_is_refused(scene):
    _, start, maps, _, Ks = scene
    with pytest.raises(ValueError, match="schedule is empty"):
        lines.fit(points.rendered([box()] * 2), start, Ks, maps, schedule=[])
