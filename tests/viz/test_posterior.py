import math

import numpy as np
import pytest
import torch
from matplotlib.path import Path

from monopose import viz
from monopose.geometry import rotation, se3, viewpoints
from monopose.types import Camera, Frame
from monopose.viz import posterior


def _seen_from(direction, inplane=0.0, t=(0.0, 0.0, 0.8)):
    direction = torch.nn.functional.normalize(torch.tensor(direction, dtype=torch.float32), dim=0)
    return se3.from_rt(viewpoints.look_at(direction, inplane), torch.tensor(t))


def _around(pose, n, spread=0.01, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return se3.retract(pose.expand(n, 4, 4), spread * torch.randn(n, 6, generator=generator))


def _discs(fig):
    """Directions (longitude, latitude), in-plane angles in degrees and areas of the wedges on the map."""
    wedges = fig.axes[0].collections[0]
    areas = np.array([abs(_area(path.to_polygons()[0])) for path in wedges.get_paths()]) * wedges.get_sizes()
    return np.asarray(wedges.get_offsets()), np.asarray(wedges.get_array()), areas


def _area(polygon):
    x, y = np.asarray(polygon).T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def _legend(fig):
    return [text.get_text() for legend in fig.legends for text in legend.get_texts()]


def _named(panel, name):
    """What stands in a panel's legend under a name."""
    handles, labels = panel.get_legend_handles_labels()
    return handles[labels.index(name)]


def test_probability_lies_where_the_object_is_seen_from(charts):
    """Areas of discs are probabilities: 60 of 100 samples from +X, 40 from +Y."""
    samples = torch.cat([_around(_seen_from((1, 0, 0)), 60), _around(_seen_from((0, 1, 0), 2.0), 40)])
    picture = viz.orientation_density(samples)
    assert picture.mode == "RGB"
    assert picture.size == (1000, 470)
    places, _, areas = _discs(charts[0])
    front = np.hypot(*places.T) < 0.1
    right = np.hypot(*(places - (math.pi / 2, 0)).T) < 0.1
    assert (front | right).all()
    assert areas[front].sum() / areas.sum() == pytest.approx(0.6, abs=0.02)
    viz.orientation_density(samples, torch.cat([torch.zeros(60), torch.full((40,), -math.inf)]))
    assert np.hypot(*_discs(charts[1])[0].T).max() < 0.1


def test_colours_are_in_plane_angles(charts):
    for direction in ((1, 0, 0), (0, 1, 0.3)):
        for angle in (1.0, -2.5):
            viz.orientation_density(_around(_seen_from(direction, angle), 20, 1e-4))
            assert _discs(charts[-1])[1] == pytest.approx(math.degrees(angle), abs=360 / posterior.WEDGES)


def test_viewing_angles_invert_look_at():
    angles = torch.linspace(-3.1, 3.1, 9).double()
    directions = viewpoints.fibonacci_sphere(9).double()
    longitude, latitude, roll = posterior.viewing_angles(viewpoints.look_at(directions, angles).numpy())
    assert roll == pytest.approx(angles.numpy(), abs=1e-6)
    x, y, z = directions.numpy().T
    assert np.cos(longitude) * np.cos(latitude) == pytest.approx(x, abs=1e-6)
    assert np.sin(longitude) * np.cos(latitude) == pytest.approx(y, abs=1e-6)
    assert np.sin(latitude) == pytest.approx(z, abs=1e-6)


def test_modes_and_truth_are_marked(charts):
    front, side = _seen_from((1, 0, 0)), _seen_from((0, 1, 0))
    samples = torch.cat([_around(front, 60), _around(side, 40)])
    viz.orientation_density(samples)
    assert _legend(charts[-1]) == ["90 %", "50 %"]
    truth = se3.retract(front, torch.tensor([0.0, 0, 0, 0.01, -0.02, 0]))
    marked = viz.orientation_density(samples, None, torch.stack([front, side, front]), truth, 1e-4 * torch.eye(6))
    assert _legend(charts[-1]) == ["truth", "60 %", "40 %", "90 %", "50 %", "Gaussian, 90 %", "truth"]
    world, close_up = charts[-1].axes[0], charts[-1].axes[2]
    pins = {text.get_text(): text.xy for text in world.texts if text.get_text().isdigit()}
    assert pins == {"1": pytest.approx((0, 0), abs=1e-6), "2": pytest.approx((math.pi / 2, 0), abs=1e-6)}
    away = np.degrees([0.01, -0.02])
    assert np.asarray(_named(close_up, "truth").get_offsets())[0] == pytest.approx(away, abs=1e-3)
    again = viz.orientation_density(samples, None, torch.stack([front, side]), truth, 1e-4 * torch.eye(6))
    assert np.array_equal(np.asarray(again), np.asarray(marked))  # the repeated mode changes nothing


def test_numbers_of_modes_stand_apart(charts):
    """Nine modes at one direction, in different in-plane angles."""
    modes = torch.stack([_seen_from((1, 0, 0), a) for a in np.linspace(-3, 3, 9)])
    viz.orientation_density(modes, None, modes)
    places = np.array([text.xyann for text in charts[0].axes[0].texts if text.get_text().isdigit()])
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + 99 * np.eye(9)
    assert apart.min() > 13  # points; a number is 9 high


def test_axes_contain_samples_and_truth_in_a_fitting_unit(charts):
    for x, spread, unit, scale in ((0.05, 1e-3, "mm", 1000), (1.5, 0.2, "m", 1)):
        pose = _seen_from((1, 0, 0), t=(x, -0.03, 8 * x))
        samples = _around(pose, 400, spread)
        truth = se3.retract(pose, torch.tensor([x / 20, 0, 0, 0, 0, 0]))
        picture = viz.translation_scatter(samples, None, truth)
        assert picture.size == (1000, 470)
        for panel, axes in zip(charts[-1].axes, ((0, 2), (0, 1))):
            (x0, x1), (y0, y1) = panel.get_xlim(), sorted(panel.get_ylim())
            points = scale * samples[:, axes, 3].numpy()
            inside = (points > (x0, y0)).all(1) & (points < (x1, y1)).all(1)
            assert inside.mean() > 0.94
            goal = scale * truth[axes, 3].numpy()
            assert np.asarray(_named(panel, "truth").get_offsets())[0] == pytest.approx(goal, rel=1e-5)
            assert (goal > (x0, y0)).all() and (goal < (x1, y1)).all()  # noqa: PT018
            assert panel.get_xlabel() == f"x, right [{unit}]"
            box = panel.get_position()
            shape = box.height * 470 / (box.width * 1000)
            assert (y1 - y0) / (x1 - x0) == pytest.approx(shape, rel=1e-6)  # one scale
        assert charts[-1].axes[1].yaxis_inverted()  # y points down
        assert not charts[-1].axes[0].yaxis_inverted()


def test_axes_of_different_scales_carry_a_note(charts):
    samples = se3.from_rt(
        torch.eye(3).expand(50, 3, 3), torch.linspace(-0.1, 0.1, 50)[:, None] * torch.tensor([1.0, 0.01, 1.0])
    )
    viz.translation_scatter(samples)
    notes = [[t.get_text() for t in panel.texts] for panel in charts[0].axes]
    assert "the axes have different scales" not in notes[0]
    assert "the axes have different scales" in notes[1]


def test_regions_hold_their_share_and_keep_two_modes_apart(charts):
    generator = torch.Generator().manual_seed(0)

    def drawn(count):
        spread = torch.cat([0.002 * torch.randn(count, 3, generator=generator) for _ in range(3)])
        spread[: 2 * count, 0] -= 0.05  # two thirds on the left
        return se3.from_rt(torch.eye(3).expand(3 * count, 3, 3), spread + torch.tensor([0.0, 0.0, 1.0]))

    viz.translation_scatter(drawn(200))
    fresh = 1000 * drawn(1000)[:, (0, 2), 3].numpy()
    panel = charts[0].axes[0]
    lines = [c for c in panel.collections if hasattr(c, "levels") and not c.filled]
    outer, inner = (path.to_polygons() for path in lines[0].get_paths())

    def within(polygons, points):
        return np.any([Path(polygon).contains_points(points) for polygon in polygons], 0)

    assert within(outer, fresh).mean() == pytest.approx(0.9, abs=0.04)
    assert within(inner, fresh).mean() == pytest.approx(0.5, abs=0.08)
    assert within(outer, np.array([[-50.0, 1000], [0, 1000], [-25, 1000]])).tolist() == [True, True, False]


def test_the_gaussian_is_the_ellipse_of_90_percent(charts):
    pose = _seen_from((1, 0, 0), t=(0.05, 0.0, 0.9))
    covariance = 1e-6 * torch.eye(6).double()
    covariance[0, 2] = covariance[2, 0] = 0.6e-6
    viz.translation_scatter(_around(pose, 200, 1e-3), None, pose, pose, covariance)
    ellipse = _named(charts[0].axes[0], "Gaussian, 90 %").get_xydata() / 1000 - (0.05, 0.9)
    block = covariance[[0, 2]][:, [0, 2]].numpy()
    squares = np.einsum("ni,ij,nj->n", ellipse, np.linalg.inv(block), ellipse)
    assert squares == pytest.approx(-2 * math.log(0.1), rel=1e-3)


def test_mean_and_sigma_are_written_with_two_digits_of_sigma(charts):
    t = torch.tensor([[0.0, 0.0, 0.79736]]) + torch.tensor([[0.0112], [-0.0112]]) * torch.tensor([0.2, 1.0, 1.0])
    viz.translation_scatter(se3.from_rt(torch.eye(3).expand(2, 3, 3), t))
    notes = [panel.texts[0].get_text() for panel in charts[0].axes]
    assert notes[0] == "mean ± sigma: x 0.0 ± 2.2, z 797 ± 11 mm"
    assert notes[1] == "mean ± sigma: x 0.0 ± 2.2, y 0 ± 11 mm"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-3, 3.0])
def test_any_spread_can_be_drawn(spread):
    pose = _seen_from((0, 0, 1), t=(0.0, 0.0, 2.0))
    for n in (1, 40):
        samples = _around(pose, n, spread)
        assert viz.orientation_density(samples, None, pose[None], pose, torch.zeros(6, 6)).size == (1000, 470)
        assert viz.translation_scatter(samples, None, pose, pose, torch.full((6, 6), math.inf)).size == (1000, 470)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_weights_may_differ_by_any_factor(charts):
    samples = torch.cat([_around(_seen_from((1, 0, 0)), 5), _around(_seen_from((0, 1, 0)), 5)])
    for lowest in (-40.0, -300.0, -700.0):
        weights = torch.cat([torch.zeros(5), torch.full((5,), lowest)]).double()
        viz.orientation_density(samples, weights)
        assert np.hypot(*_discs(charts[-1])[0].T).max() < 0.1
        viz.translation_scatter(samples, weights)


@pytest.mark.slow
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


def test_inputs_are_not_modified_and_may_carry_gradients():
    samples = _around(_seen_from((1, 0, 0)), 20).requires_grad_()
    weights = torch.zeros(20, requires_grad=True)
    before = samples.detach().clone()
    viz.orientation_density(samples, weights, samples[:1])
    viz.translation_scatter(samples, weights)
    viz.draw_samples(_frame(), samples, weights)
    assert torch.equal(samples.detach(), before)
    assert rotation.angle_between(samples[0, :3, :3], before[0, :3, :3]) < 1e-3
