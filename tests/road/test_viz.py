"""Pictures of boxes: lines lie where the boxes are, and odd input gives a picture or a clear error."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from monopose.datasets import kitti
from monopose.datasets.road import RoadObjects, no_objects
from monopose.geometry import boxes3d
from monopose.road import viz
from monopose.viz import object_color

KITTI = Path(__file__).parents[3] / "shared" / "data" / "kitti_mini"
SIZE = (120, 320)
K = torch.tensor([[200.0, 0, 159.5], [0, 200.0, 59.5], [0, 0, 1]])
IMAGE = torch.full((3, *SIZE), 0.5)


def _car(x: float = 0.0, z: float = 12.0, yaw: float = -math.pi / 2, **more) -> RoadObjects:
    pose = boxes3d.from_yaw(torch.tensor([[x, 0.8, z]]), torch.tensor([yaw]))
    lhw = torch.tensor([[4.0, 1.6, 1.8]])
    return RoadObjects(torch.tensor([0]), pose, lhw, boxes3d.project(pose, lhw, K, SIZE), **more)


def _changed(picture) -> np.ndarray:
    grey = np.full((*SIZE, 3), 128)
    return np.abs(np.asarray(picture).astype(int) - grey).max(-1) > 40


def test_lines_lie_within_the_projected_box():
    car = _car()
    lines = _changed(viz.boxes_3d(IMAGE, K, car, ["car"], tags=False))
    rows, columns = np.flatnonzero(lines.any(1)), np.flatnonzero(lines.any(0))
    x0, y0, x1, y1 = car.boxes[0].tolist()
    assert abs(columns[0] - x0) < 3
    assert abs(columns[-1] - x1) < 3
    assert abs(rows[0] - y0) < 3
    assert abs(rows[-1] - y1) < 3


def test_the_front_has_the_cross():
    """A car that looks at us has it on its near, larger face: more is drawn near the corners of that face's middle."""

    def cross(yaw: float) -> int:
        car = _car(yaw=yaw)
        lines = _changed(viz.boxes_3d(IMAGE, K, car, ["car"], tags=False))
        near = boxes3d.corners(car.cam_from_obj[0], car.sizes[0])
        near = near[near[:, 2] < 12]  # the face towards us
        quarter = near.mean(0) + 0.25 * (near[near[:, 0].argmin()] - near.mean(0))
        u, v = ((K @ quarter)[:2] / quarter[2]).round().int().tolist()
        return int(lines[v - 1 : v + 2, u - 1 : u + 2].sum())

    assert cross(math.pi / 2) > cross(-math.pi / 2)


def test_boxes_beside_and_behind_the_camera_are_cut():
    whole = np.asarray(viz.boxes_3d(IMAGE, K, _car(z=-12.0), ["car"], tags=False))
    assert (whole == whole[0, 0]).all()  # nothing of it is seen
    beside = viz.boxes_3d(IMAGE, K, _car(x=2.5, z=1.0), ["car"])  # reaches behind the camera
    assert _changed(beside)[:, 200:].any()
    assert not _changed(beside)[:, :120].any()


def test_2d_boxes_and_ignored_regions():
    ignored = torch.tensor([[10.0, 10, 30, 30]])
    picture = viz.boxes_2d(IMAGE, _car(scores=torch.tensor([0.7])), ["car"], truth=_car(x=-4.0), ignored=ignored)
    changed = np.abs(np.asarray(picture).astype(int) - 128).max(-1) > 3
    assert changed[18:22, 8:12].any()
    with pytest.raises(ValueError, match=r"no 2D boxes; geometry\.boxes3d\.project"):
        viz.boxes_2d(IMAGE, RoadObjects(torch.tensor([0]), torch.eye(4)[None], torch.ones(1, 3)), ["car"])


def test_from_above_boxes_lie_at_their_places(charts):
    car = _car(x=5.0, z=20.0, yaw=-math.pi / 2 + 0.3, velocities=torch.tensor([[0.0, 0.0, 5.0]]))
    picture = viz.bev(car, ["car"], truth=_car(x=-3.0, z=12.0), reach=40.0, K=K, size=SIZE)
    assert picture.size == (640, 880)
    panel = charts[0].axes[0]
    boxes = {patch.get_label(): patch.get_xy()[:4] for patch in panel.patches}
    assert boxes["car"].mean(0) == pytest.approx([5, 20])
    sides = np.linalg.norm(np.diff(boxes["car"], axis=0), axis=1)
    assert sides == pytest.approx([1.8, 4.0, 1.8])
    front = boxes["car"][:2].mean(0) - (5, 20)  # the nose leads away from the camera, and to the right
    assert front == pytest.approx(2 * np.array([math.sin(0.3), math.cos(0.3)]))
    assert boxes["truth"].mean(0) == pytest.approx([-3, 12])
    dashed = [line.get_xydata() for line in panel.lines if line.get_linestyle() == "--"]
    assert any(len(line) == 2 and line.ravel() == pytest.approx([5, 20, 5, 25]) for line in dashed)  # a second's way
    at = panel.transData.transform((5.5, 20.7))
    tint = np.array(object_color(0))
    pixel = np.asarray(picture).astype(int)[880 - round(at[1]), round(at[0])]
    assert np.abs(pixel - (255 + (tint - 255) * 0.43)).max() < 12


def test_from_above_everything_is_in_reach_and_metres_are_as_long_in_both_directions(charts):
    viz.bev(_car(z=30.0), truth=_car(z=45.0))
    panel = charts[0].axes[0]
    assert panel.get_ylim()[1] > 47
    assert panel.get_ylim()[0] < 0
    across, along = panel.transData.transform([(1, 0), (0, 1)]) - panel.transData.transform((0, 0))
    assert across[0] == pytest.approx(along[1])


def test_from_above_samples_spread_and_a_lost_posterior_is_left_out(charts):
    car = _car(z=20.0)
    generator = torch.Generator().manual_seed(0)
    samples = car.cam_from_obj[:, None].repeat(1, 300, 1, 1)
    samples[..., 2, 3] += 5 * torch.randn(1, 300, generator=generator)
    viz.bev(car, samples=samples, reach=40.0)
    dots = np.asarray(charts[0].axes[0].collections[0].get_offsets())
    assert dots.mean(0) == pytest.approx(samples[0, :, (0, 2), 3].mean(0).numpy(), abs=0.3)
    assert dots.std(0) == pytest.approx([0, 5], abs=0.5)
    weights = torch.where(samples[..., 2, 3] < 20, 0.0, -math.inf)
    viz.bev(car, samples=samples, log_weights=weights, reach=40.0)
    assert np.asarray(charts[1].axes[0].collections[0].get_offsets())[:, 1].max() < 20
    lost = viz.bev(car, samples=samples, log_weights=torch.full((1, 300), -math.inf), reach=40.0)
    assert np.array_equal(np.asarray(lost), np.asarray(viz.bev(car, reach=40.0)))
    with pytest.raises(ValueError, match=r"samples must be \(1, S, 4, 4\)"):
        viz.bev(car, samples=samples[0])


def test_points_are_as_large_as_their_weights():
    pixels = torch.tensor([[[60.0, 60.0], [200.0, 60.0]]])
    weights = torch.tensor([[[1.0, 1.0], [0.04, 0.04]]])
    drawn = _changed(viz.points(IMAGE, pixels, weights))
    assert drawn[:, :130].sum() > 2 * drawn[:, 130:].sum() > 0
    lying = _changed(viz.points(IMAGE, pixels[:, :1], torch.tensor([[[1.0, 0.0]]])))
    assert np.ptp(np.flatnonzero(lying.any(0))) > 1.5 * np.ptp(np.flatnonzero(lying.any(1)))
    pose, place = torch.eye(4)[None].clone(), torch.tensor([[[0.0, 0, 0], [0.1, 0, 0]]])
    pose[0, 2, 3] = 10.0  # the first point belongs to the middle of the picture: a line leads there
    residual = _changed(viz.points(IMAGE, pixels, weights, K, pose, place))
    assert residual[59:62, 80:150].any(0).mean() > 0.9
    assert not drawn[60, 80:150].any()
    empty = np.asarray(viz.points(IMAGE, pixels * math.nan, weights))
    assert (empty == empty[0, 0]).all()
    with pytest.raises(ValueError, match=r"must both be \(R, N, 2\)"):
        viz.points(IMAGE, pixels[0], weights[0])


def test_score_maps_are_bright_where_scores_are_high():
    scores = torch.zeros(2, 15, 40)
    scores[1, 5, 10] = 0.9
    picture = np.asarray(viz.score_map(IMAGE, scores)).astype(int)
    v, u = 5 * 8 + 4, 10 * 8 + 4
    assert picture[v, u].sum() > picture[v, u + 60].sum() + 60
    assert np.ptp(picture[v, u + 60]) == 0  # grey
    with pytest.raises(ValueError, match=r"scores must be \(h, w\) or \(C, h, w\)"):
        viz.score_map(IMAGE, torch.zeros(3))


def test_the_heading_points_where_the_probability_is(charts):
    generator = torch.Generator().manual_seed(0)
    yaws = -math.pi / 2 + 0.05 * torch.randn(400, generator=generator)  # away from the camera: up
    picture = viz.yaw_density(yaws)
    assert picture.size == (360, 400)
    curve = charts[0].axes[0].patches[0].get_xy()
    peak = curve[curve[:, 1].argmax(), 0]
    assert peak == pytest.approx(-math.pi / 2, abs=0.05)
    up = charts[0].axes[0].transData.transform((peak, 1.0)) - charts[0].axes[0].transData.transform((0, 0))
    assert up[1] > 10 * abs(up[0])
    both = torch.cat([yaws, yaws[:200] + math.pi])
    viz.yaw_density(both, mode=yaws[0], truth=boxes3d.from_yaw(torch.zeros(3), yaws[1]))
    panel = charts[1].axes[0]
    yaw, r = panel.patches[0].get_xy()[:720].T
    assert (r**2)[yaw > 0].sum() / (r**2).sum() == pytest.approx(1 / 3, abs=0.02)  # areas are probabilities
    lines = {line.get_label(): line.get_xdata()[1] for line in panel.lines}
    assert lines == {"estimate": pytest.approx(float(yaws[0])), "truth": pytest.approx(float(yaws[1]), abs=1e-6)}
    assert panel.texts[0].get_text() == "67 % near the peak, 33 % the other way round"
    with pytest.raises(ValueError, match="is converged False"):
        viz.yaw_density(yaws, torch.full((400,), -math.inf))


def test_no_objects_give_the_plain_picture():
    none = no_objects()
    for picture in (
        viz.boxes_3d(IMAGE, K, none, []),
        viz.points(IMAGE, torch.zeros(0, 4, 2), torch.zeros(0, 4, 2)),
    ):
        assert (np.asarray(picture) == 128).all()
    assert viz.bev(none).size == (640, 880)


@pytest.mark.skipif(not KITTI.is_dir(), reason="../shared/data/kitti_mini is not here")
def test_true_boxes_of_kitti_frame_their_labels():
    frame = kitti.read_frame(KITTI, "000008")
    picture = viz.boxes_3d(torch.zeros(3, *frame.camera.size), frame.camera.K, frame.objects[1], frame.classes, tags=False)
    drawn = np.asarray(picture).max(-1) > 60
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    label = frame.objects.boxes[1].tolist()
    assert np.abs(np.array([columns[0], rows[0], columns[-1], rows[-1]]) - label).max() < 8
