import math

import numpy as np
import pytest
import torch

from monopose import viz
from monopose.geometry import rotation, se3, viewpoints
from monopose.types import Camera, Frame
from monopose.viz import posterior

MAP_CENTRE, MAP_HALF = (315, 200), 285  # where `orientation_density` draws its map, pixels


def _seen_from(direction, inplane=0.0, t=(0.0, 0.0, 0.8)):
    direction = torch.nn.functional.normalize(torch.tensor(direction, dtype=torch.float32), dim=0)
    return se3.from_rt(viewpoints.look_at(direction, inplane), torch.tensor(t))


def _around(pose, n, spread=0.01, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return se3.retract(pose.expand(n, 4, 4), spread * torch.randn(n, 6, generator=generator))


def _colored(picture, at, size=4):
    """The mean chroma (largest minus smallest channel) around a place."""
    pixels = np.asarray(picture).astype(int)
    patch = pixels[at[1] - size : at[1] + size + 1, at[0] - size : at[0] + size + 1]
    return float((patch.max(-1) - patch.min(-1)).mean())


FRONT, RIGHT, LEFT = MAP_CENTRE, (MAP_CENTRE[0] + MAP_HALF // 2, 200), (MAP_CENTRE[0] - MAP_HALF // 2, 200)  # from +X, +Y, -Y


def test_two_modes_light_up_two_places():
    samples = torch.cat([_around(_seen_from((1, 0, 0)), 60), _around(_seen_from((0, 1, 0), 2.0), 40)])
    picture = viz.orientation_density(samples)
    assert picture.mode == "RGB"
    assert _colored(picture, (FRONT[0], FRONT[1])) > 60
    assert _colored(picture, RIGHT) > 60
    assert _colored(picture, LEFT) < 10
    one = viz.orientation_density(samples, torch.cat([torch.zeros(60), torch.full((40,), -math.inf)]))
    assert _colored(one, FRONT) > 60
    assert _colored(one, RIGHT) < 10


def test_the_area_of_a_disc_is_its_probability():
    samples = torch.cat([_around(_seen_from((1, 0, 0)), 80, 1e-4), _around(_seen_from((0, 1, 0)), 20, 1e-4)])
    pixels = np.asarray(viz.orientation_density(samples)).astype(int)[60:340, 40:600]
    colored = (pixels.max(-1) - pixels.min(-1)) > 60
    half = MAP_CENTRE[0] + MAP_HALF // 4 - 40
    assert colored[:, half:].sum() / colored.sum() == pytest.approx(0.2, abs=0.04)


def test_equal_in_plane_angles_share_a_colour_and_opposite_ones_do_not():
    def color(direction, inplane, at):
        picture = viz.orientation_density(_around(_seen_from(direction, inplane), 20, 1e-4))
        return np.asarray(picture).astype(int)[at[1] + 4, at[0] + 4]

    assert np.abs(color((1, 0, 0), 1.0, FRONT) - color((0, 1, 0), 1.0, RIGHT)).max() < 4
    assert np.abs(color((1, 0, 0), 1.0, FRONT) - color((1, 0, 0), 1.0 + math.pi, FRONT)).max() > 80


def test_the_map_is_equal_area_and_its_poles_are_up_and_down():
    figure = posterior.Figure(10, 10)
    world = posterior.Map(figure, (0.0, 0.0), 2.0)
    directions = viewpoints.fibonacci_sphere(4000).double()
    spots, _ = world.place(viewpoints.look_at(directions).numpy())
    x, y = spots[:, 0] / 2, spots[:, 1]
    assert (x**2 + y**2).max() < 1 + 1e-9
    inner = (x**2 + y**2 < 0.25).mean()  # a quarter of the ellipse holds a quarter of the sphere
    assert inner == pytest.approx(0.25, abs=0.01)
    assert np.corrcoef(-y, directions[:, 2])[0, 1] > 0.97
    north, _ = world.place(viewpoints.look_at(torch.tensor([[0.0, 0.0, 1.0]])).double().numpy())
    assert north[0] == pytest.approx([0.0, -1.0], abs=1e-3)


def test_place_finds_the_in_plane_angle():
    world = posterior.Map(posterior.Figure(10, 10), (0.0, 0.0), 2.0)
    angles = torch.linspace(-3.1, 3.1, 9).double()
    directions = viewpoints.fibonacci_sphere(9).double()
    _, found = world.place(viewpoints.look_at(directions, angles).numpy())
    assert found == pytest.approx(angles.numpy(), abs=1e-6)


def test_regions_hold_their_share_and_keep_two_modes_apart():
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.normal((0, 0), 0.1, (400, 2)), generator.normal((5, 0), 0.1, (200, 2))])
    density = posterior._Density(points, np.full(600, 1 / 600))
    level = density.level(0.9)
    fresh = np.concatenate([generator.normal((0, 0), 0.1, (2000, 2)), generator.normal((5, 0), 0.1, (1000, 2))])
    assert (density(fresh) >= level).mean() == pytest.approx(0.9, abs=0.04)
    assert density(np.array([[2.5, 0.0]]))[0] < 1e-3 * level
    at_modes = density(np.array([[0.0, 0.0], [5.0, 0.0]]))
    assert at_modes[0] / at_modes[1] == pytest.approx(2.0, rel=0.35)


def test_modes_and_truth_are_marked():
    front, side = _seen_from((1, 0, 0)), _seen_from((0, 1, 0))
    samples = torch.cat([_around(front, 50), _around(side, 50)])
    plain = np.asarray(viz.orientation_density(samples)).astype(int)
    marked = np.asarray(viz.orientation_density(samples, None, torch.stack([front, side, front]), front)).astype(int)
    ring = np.abs(marked - plain)[FRONT[1] - 14 : FRONT[1] + 15, FRONT[0] - 14 : FRONT[0] + 15]
    assert (ring.max(-1) > 60).sum() > 60
    assert np.abs(marked - plain)[395:430, 330:640].max() > 100  # the legend
    three = np.asarray(viz.orientation_density(samples, None, torch.stack([front, side]), front)).astype(int)
    assert np.array_equal(three, marked)  # the repeated mode changes nothing


def test_translation_scatter_marks_two_places():
    samples = torch.cat([_around(_seen_from((1, 0, 0), t=(-0.1, 0, 1.0)), 90, 1e-3),
                         _around(_seen_from((1, 0, 0), t=(0.1, 0, 1.0)), 90, 1e-3)])  # fmt: skip
    pixels = np.asarray(viz.translation_scatter(samples)).astype(int)
    assert pixels.shape == (470, 1000, 3)
    panel = pixels[50:371, 87:468]
    colored = (panel.max(-1) - panel.min(-1)) > 60
    columns = colored.any(0)
    assert columns[:120].any()
    assert columns[240:].any()
    assert not columns[150:230].any()


def test_truth_and_gaussian_of_the_translation():
    pose = _seen_from((1, 0, 0), t=(0.05, 0.0, 0.9))
    samples = _around(pose, 200, 1e-3)
    plain = np.asarray(viz.translation_scatter(samples)).astype(int)
    marked = np.asarray(viz.translation_scatter(samples, None, pose, pose, 1e-6 * torch.eye(6))).astype(int)

    def red(pixels):
        return ((pixels[50:370, 90:420, 0] - pixels[50:370, 90:420, 1]) > 80).sum()

    assert red(plain) == 0
    assert red(marked) > 100


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-3, 3.0])
def test_any_spread_can_be_drawn(spread):
    pose = _seen_from((0, 0, 1), t=(0.0, 0.0, 2.0))
    for n in (1, 2, 40):
        samples = _around(pose, n, spread)
        assert viz.orientation_density(samples, None, pose[None], pose, torch.zeros(6, 6)).size == (1000, 470)
        assert viz.translation_scatter(samples, None, pose, pose, torch.full((6, 6), math.inf)).size == (1000, 470)


@pytest.mark.filterwarnings("error")
def test_weights_may_differ_by_any_factor():
    samples = torch.cat([_around(_seen_from((1, 0, 0)), 5), _around(_seen_from((0, 1, 0)), 5)])
    for lowest in (-40.0, -300.0, -700.0):
        weights = torch.cat([torch.zeros(5), torch.full((5,), lowest)]).double()
        assert _colored(viz.orientation_density(samples, weights), RIGHT) < 10
        viz.translation_scatter(samples, weights)


def test_bad_samples_are_left_out():
    samples = _around(_seen_from((1, 0, 0)), 50)
    broken = torch.cat([samples, torch.full((1, 4, 4), math.nan), samples[:2]])
    weights = torch.cat([torch.zeros(51), torch.tensor([math.nan, -math.inf])])
    for draw in (viz.orientation_density, viz.translation_scatter):
        assert np.array_equal(np.asarray(draw(broken, weights)), np.asarray(draw(samples, torch.zeros(50))))


@pytest.mark.parametrize("draw", [viz.orientation_density, viz.translation_scatter])
def test_errors_say_what_is_wrong(draw):
    pose = _seen_from((1, 0, 0))
    with pytest.raises(ValueError, match=r"samples must be \(S, 4, 4\).*got \(2, 5, 4, 4\)"):
        draw(pose.expand(2, 5, 4, 4))
    with pytest.raises(ValueError, match="no samples"):
        draw(torch.zeros(0, 4, 4))
    with pytest.raises(ValueError, match=r"log_weights must be \(3,\).*got \(4,\)"):
        draw(pose.expand(3, 4, 4), torch.zeros(4))
    with pytest.raises(ValueError, match="none of the 3 samples has finite numbers and a weight"):
        draw(pose.expand(3, 4, 4), torch.full((3,), -math.inf))
    with pytest.raises(ValueError, match="none of the 2 samples"):
        draw(torch.full((2, 4, 4), math.nan))
    with pytest.raises(ValueError, match=r"covariance must be \(6, 6\).*got \(3, 3\)"):
        draw(pose[None], covariance=torch.eye(3), **({"mode": pose} if draw is viz.translation_scatter else {}))
    with pytest.raises(ValueError, match="truth must be"):
        draw(pose[None], truth=torch.eye(3)[0])


def test_more_errors():
    pose = _seen_from((1, 0, 0))
    with pytest.raises(ValueError, match="covariance needs the mode"):
        viz.translation_scatter(pose[None], covariance=torch.eye(6))
    with pytest.raises(ValueError, match="modes has no finite rotation"):
        viz.orientation_density(pose[None], modes=torch.full((1, 4, 4), math.nan))


def _frame():
    K = torch.tensor([[200.0, 0, 79.5], [0, 200, 59.5], [0, 0, 1]])
    return Frame(torch.zeros(3, 120, 160), Camera(K, (120, 160)))


def test_samples_on_the_photo():
    pose = _seen_from((1, 0.2, 0.3))
    bounds = torch.tensor([[-0.1, -0.1, -0.1], [0.1, 0.1, 0.1]])
    sharp = np.asarray(viz.draw_samples(_frame(), pose.expand(30, 4, 4), None, bounds))
    wide = np.asarray(viz.draw_samples(_frame(), _around(pose, 30, 0.05), None, bounds))
    assert sharp.shape == (120, 160, 3)
    assert sharp.max() > 200  # where all agree the line is opaque
    assert (wide > 10).sum() > 1.5 * (sharp > 10).sum()
    corner = se3.transform(pose, torch.tensor([[0.1, 0.1, 0.1]]))
    u, v = ((_frame().camera.K @ corner[0])[:2] / corner[0, 2]).round().int().tolist()
    assert sharp[v - 1 : v + 2, u - 1 : u + 2].max() > 150


def test_samples_on_the_photo_follow_the_weights():
    left, right = _seen_from((1, 0, 0), t=(-0.2, 0, 0.8)), _seen_from((1, 0, 0), t=(0.2, 0, 0.8))
    weights = torch.tensor([0.0, -30.0])
    picture = np.asarray(viz.draw_samples(_frame(), torch.stack([left, right]), weights))
    assert picture[:, :80].max() > 100
    assert picture[:, 80:].max() == 0


def test_hopeless_samples_on_the_photo():
    behind = _seen_from((1, 0, 0), t=(0.0, 0.0, -1.0))
    for pose in (behind, torch.full((4, 4), math.nan), torch.zeros(4, 4)):
        assert np.asarray(viz.draw_samples(_frame(), pose[None], None, torch.tensor([[-0.1] * 3, [0.1] * 3]))).max() == 0
    with pytest.raises(ValueError, match=r"samples must be"):
        viz.draw_samples(_frame(), behind)
    with pytest.raises(ValueError, match=r"bounds must be \(2, 3\)"):
        viz.draw_samples(_frame(), behind[None], bounds=torch.zeros(3))
    with pytest.raises(ValueError, match="none of the 1 samples has a weight"):
        viz.draw_samples(_frame(), behind[None], torch.tensor([math.nan]))


def test_many_samples_are_chosen_in_proportion():
    picked = posterior.chosen(torch.log(torch.tensor([0.5, 0.25, 0.25, 0.0])), 4, 8)
    assert [picked.count(k) for k in range(4)] == [4, 2, 2, 0]
    assert posterior.chosen(None, 4, 4) == [0, 1, 2, 3]


def test_axes_have_round_numbers():
    ticks, step = posterior._ticks(-0.37, 1.2)
    assert step == pytest.approx(0.5)
    assert ticks == pytest.approx([0.0, 0.5, 1.0])
    assert [posterior._label(v, 0.02) for v in (0.1, -0.0, 3)] == ["0.10", "0.00", "3.00"]
    assert posterior._with_error(797.36, 11.2) == "797 ± 11"
    assert posterior._with_error(50.71, 2.24) == "50.7 ± 2.2"


def test_inputs_are_not_modified_and_may_carry_gradients():
    samples = _around(_seen_from((1, 0, 0)), 20).requires_grad_()
    weights = torch.zeros(20, requires_grad=True)
    before = samples.detach().clone()
    viz.orientation_density(samples, weights, samples[:1])
    viz.translation_scatter(samples, weights)
    viz.draw_samples(_frame(), samples, weights)
    assert torch.equal(samples.detach(), before)
    assert rotation.angle_between(samples[0, :3, :3], before[0, :3, :3]) < 1e-3
