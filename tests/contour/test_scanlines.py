"""The table of edges: where they lie, the energy of a pose against its plain twin and finite differences, starts far off."""

import numpy as np
import pytest
import torch

from contour.test_lines import SIDE, K, pose, silhouette
from monopose.contour import lines, points, scanlines
from shapes import box


def disc_map(radius=40.0, centre=(100.3, 90.2), side=192):
    v, u = np.mgrid[:side, :side]
    return np.clip(radius + 0.5 - np.hypot(u - centre[0], v - centre[1]), 0.03, 0.97)[None].astype(np.float32)


def test_the_edges_of_a_disc_are_found_from_all_sixteen_sides():
    radius, centre = 40.0, np.array([100.3, 90.2])
    edges = scanlines.table(disc_map())
    rows = edges.position.shape[2]
    for k in range(16):
        angle = 2 * np.pi * k / 16
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]]) * (-1 if k >= 8 else 1)
        for off in (-20.0, 0.0, 25.0):
            row = int(np.floor((centre - edges.middle) @ across + off + rows / 2 + 0.5))
            exact = (row - rows / 2) - (centre - edges.middle) @ across
            expected = (centre - edges.middle) @ along + np.sqrt(radius**2 - exact**2)
            assert edges.position[0, k, row, 0] == pytest.approx(expected, abs=0.7)
            assert edges.height[0, k, row, 0] > 0.5
        assert np.isnan(edges.position[0, k, int((centre - edges.middle) @ across + 60 + rows / 2), 0])


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(3)
    model = box()
    true = np.stack([pose(), pose(0.01, -0.01, 0.7, (1.0, -0.3, 0.8))])
    maps = np.stack([silhouette(model, p) for p in true]) * 0.8 + rng.random((2, SIDE, SIDE)) * 0.2
    start = lines.moved(true, rng.normal(size=(2, 6)) * [0.01, 0.01, 0.03, 0.2, 0.2, 0.2])
    return true, start, lines.maps_of(maps).probability, points.rendered([model, model])(start), np.stack([K, K])


@pytest.mark.slow
@pytest.mark.parametrize("power", [scanlines.SHARP, scanlines.WIDE])
def test_equations_equal_their_plain_twin(scene, power):
    _, start, maps, found, Ks = scene
    edges = scanlines.table(maps)
    fast = scanlines.equations(edges, found, start, Ks, np.array([0, 1]), power)
    plain = scanlines.equations_reference(edges, found, start, Ks, np.array([0, 1]), power)
    for a, b in zip(fast, plain):
        assert np.abs(a).max() > 0
        assert a == pytest.approx(b, rel=1e-6, abs=1e-6 * np.abs(b).max())


def test_the_pull_is_down_the_slope_of_the_squared_distance(scene):
    _, start, maps, found, Ks = scene
    edges = scanlines.table(maps)
    one = np.array([0, 1])

    def cost(delta):  # at power 2 every weight is 1, and E sum w^2 is the sum of squares
        at = scanlines.equations(edges, found, lines.moved(start, delta), Ks, one, 2.0)
        return 0.5 * at.energy

    base = scanlines.equations(edges, found, start, Ks, one, 2.0)
    slopes = np.zeros((2, 6))
    for k in range(6):
        step = np.zeros((2, 6))
        step[:, k] = 1e-7
        slopes[:, k] = -(cost(step) - cost(-step)) / 2e-7
    ratio = slopes / base.g  # the same weight sum in all six
    assert ratio == pytest.approx(np.median(ratio, 1)[:, None] * np.ones(6), rel=1e-3)
    assert (ratio > 0).all()


def test_energy_is_least_at_the_true_pose(scene):
    true, start, maps, _, Ks = scene
    edges = scanlines.table(maps)
    at = points.rendered([box(), box()])
    right = scanlines.equations(edges, at(true), true, Ks, np.array([0, 1]), scanlines.SHARP).energy
    wrong = scanlines.equations(edges, at(start), start, Ks, np.array([0, 1]), scanlines.SHARP).energy
    assert (right < wrong).all()
    away = true.copy()
    away[:, 0, 3] += 5.0  # out of the picture: no edge is found, which is no praise
    lost = scanlines.equations(edges, at(away), away, Ks, np.array([0, 1]), scanlines.SHARP).energy
    assert (lost > wrong).all()


@pytest.mark.slow
def test_poses_turned_by_forty_degrees_are_found_among_many_starts():
    model = box()
    views = points.build_views(model, 600, side=200)
    rng = np.random.default_rng(4)
    true = np.stack([pose(turn=t) for t in ((0.4, 0.5, 0.2), (-0.5, 0.3, 1.0))])
    edges = scanlines.table(lines.maps_of(np.stack([silhouette(model, p) for p in true])).probability)
    for m in range(2):
        turn = rng.normal(size=2)
        turn *= np.radians(40) / np.linalg.norm(turn)
        start = lines.moved(true[m : m + 1], np.array([[0.01, 0, 0.02, *turn, 0]]))
        starts = scanlines.tilted(start, np.radians(45))[0]
        at = points.looked_up([views], [0] * len(starts))
        Ks, which = np.repeat(K[None], len(starts), 0), np.full(len(starts), m)
        found, energy = scanlines.descend(edges, at, starts, Ks, which, updates=24, power=scanlines.WIDE)
        best = found[energy.argmin()][None]
        error = np.degrees(np.linalg.norm(lines.difference(best, true[m : m + 1])[0, 3:]))
        alone = np.degrees(np.linalg.norm(lines.difference(found[:1], true[m : m + 1])[0, 3:]))
        assert error < 4
        assert energy.min() <= energy[0]
        assert error <= alone + 1


def test_tilted_poses_keep_their_place_and_begin_with_the_pose_itself():
    start = pose()[None]
    many = scanlines.tilted(start, np.radians(30))[0]
    assert np.array_equal(many[0], start[0])
    assert len(many) == 49
    assert (many[:, :3, 3] == start[0, :3, 3]).all()
    turn = np.degrees(np.linalg.norm(lines.difference(many, np.repeat(start, 49, 0))[:, 3:], axis=1))
    assert turn.max() == pytest.approx(30 * np.sqrt(2), abs=0.1)
    assert torch.linalg.det(torch.from_numpy(many[:, :3, :3])).numpy() == pytest.approx(1, abs=1e-12)
