"""Features of a texture: none where there is none, the step goes to the pose, a wrong match does not count."""

import numpy as np
import pytest
import torch

from monopose.contour import lines
from monopose.render.scene import render_scene
from monopose.tracking import features
from monopose.types import Camera
from shapes import box

SIDE = 256
K = np.array([[500.0, 0, 127.5], [0, 500, 127.5], [0, 0, 1]])


def pose(turn=(0.4, 0.6, 0.2), t=(0.0, 0.0, 0.5)):
    return lines.moved(np.eye(4)[None], np.array([[*t, *turn]]))[0]


def grey(model, at):
    drawn = render_scene(
        [model], torch.from_numpy(at).float()[None], Camera(torch.from_numpy(K).float(), (SIDE, SIDE)).K, (SIDE, SIDE)
    )
    return (drawn.image.mean(0) * 255).round().byte().numpy()


@pytest.fixture(scope="module")
def speckled():
    """A box whose vertices have random colours."""
    model = box(cells=24)
    colors = torch.rand(len(model.vertices), 3, generator=torch.Generator().manual_seed(0))
    return type(model)(**{**model.__dict__, "colors": colors})


def test_an_object_without_texture_has_no_keyframe():
    plain = box()
    picture = grey(type(plain)(**{**plain.__dict__, "colors": None}), pose())
    assert features.keyframe(plain, picture, np.ones((SIDE, SIDE), bool), K, pose()) is None


def test_matches_lead_to_the_pose(speckled):
    known = features.keyframe(speckled, grey(speckled, pose()), np.ones((SIDE, SIDE), bool), K, pose())
    assert len(known.points) >= features.LEAST
    low, high = speckled.bounds.numpy()
    assert (known.points > low - 2e-3).all()
    assert (known.points < high + 2e-3).all()
    true = pose((0.45, 0.52, 0.24), (0.004, -0.003, 0.51))
    found = features.matched([known], grey(speckled, true), pose(), K, 100.0)
    assert len(found.points) >= 10
    est = pose()
    for sigma in (7, 3, 2, 2):
        g, A = features.normal_equations(found, est, K, sigma)
        est = lines.moved(est[None], np.linalg.solve(A + 1e-6 * np.eye(6), g)[None])[0]
    off = lines.difference(est[None], true[None])[0]
    assert np.linalg.norm(off[:3]) < 0.003
    assert np.degrees(np.linalg.norm(off[3:])) < 1
    assert features.inliers(found, est, K) >= 0.8 * len(found.points)


def test_the_pull_is_the_gradient_of_tukeys_cost_and_far_matches_do_not_pull():
    rng = np.random.default_rng(0)
    points, at = rng.uniform(-0.04, 0.04, (12, 3)), pose()
    x = points @ at[:3, :3].T + at[:3, 3]
    pixels = (x @ K.T)[:, :2] / x[:, 2:] + rng.normal(0, 4, (12, 2))
    pixels[0] += 200
    matches = features.Matches(points, pixels)

    def cost(delta):
        y = points @ lines.moved(at[None], delta[None])[0][:3, :3].T + lines.moved(at[None], delta[None])[0][:3, 3]
        e2 = (((y @ K.T)[:, :2] / y[:, 2:] - pixels) ** 2).sum(1) / features.CUT**2
        return (features.CUT**2 / 6 * (1 - (1 - np.minimum(e2, 1)) ** 3)).sum() / 9

    g, _ = features.normal_equations(matches, at, K, 3.0)
    h = 1e-6
    numeric = [-(cost(h * e) - cost(-h * e)) / (2 * h) for e in np.eye(6)]
    assert g == pytest.approx(np.array(numeric), rel=1e-4, abs=1e-3)
    without = features.Matches(points[1:], pixels[1:])
    assert g == pytest.approx(features.normal_equations(without, at, K, 3.0)[0])


def test_nothing_is_matched_from_another_side(speckled):
    known = features.keyframe(speckled, grey(speckled, pose()), np.ones((SIDE, SIDE), bool), K, pose())
    behind = pose((0.4, 0.6 + np.pi, 0.2))
    assert len(features.matched([known], grey(speckled, behind), behind, K, 100.0).points) == 0
