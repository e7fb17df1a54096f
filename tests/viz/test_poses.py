import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import viz
from monopose.geometry import rotation
from monopose.render.scene import render_scene
from monopose.types import Camera, Detections, Frame, Instances, ObjectModel, PoseEstimates
from monopose.viz.canvas import AXES, _free_spot, _overlap
from shapes import box

SIZE = (120, 160)
K = torch.tensor([[200.0, 0.0, 79.5], [0.0, 200.0, 59.5], [0.0, 0.0, 1.0]])


def _cube(side=0.1, obj_id=3):
    signs = torch.tensor([[i >> k & 1 for k in range(3)] for i in range(8)]).float() * 2 - 1
    quads = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    faces = torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    points = signs * side / 2
    return ObjectModel(obj_id, "cube", points, faces, torch.nn.functional.normalize(points, dim=-1), side * 3**0.5)


def _frame(grey=0.5):
    return Frame(torch.full((3, *SIZE), grey), Camera(K, SIZE))


def _poses(x=0.0, z=0.5, n=1, **options):
    pose = torch.eye(4).repeat(n, 1, 1)
    pose[:, 0, 3] = x
    pose[:, 2, 3] = z
    return PoseEstimates(torch.full((n,), 3), pose, torch.full((n,), 0.87), **options)


def _changed(picture, grey=0.5):
    return np.abs(np.asarray(picture).astype(int) - round(grey * 255)).max(-1) > 40


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_contour_follows_the_silhouette(grey):
    """The front face of the cube lies at z = 0.45 m: its rim is 0.05 / 0.45 * 200 = 22.2 px from the principal point."""
    picture = viz.draw(_frame(grey), _poses(), [_cube()])
    assert picture.size == SIZE[::-1]
    pixels = np.asarray(picture).astype(int)
    color = np.array(viz.object_color(3))
    near = np.abs(pixels - color).max(-1) < 60
    row = np.flatnonzero(near[75])  # below the axes' origin, away from the axes and the plate
    assert row.min() == pytest.approx(79.5 - 22.2, abs=1.5)
    assert row.max() == pytest.approx(79.5 + 22.2, abs=1.5)
    bare = viz.draw(_frame(grey), _poses(), [_cube()], labels=False)
    assert not _changed(bare, grey)[106:].any()  # nothing beyond the object and the letters of its axes


@pytest.mark.parametrize("models", [[_cube()], None])
def test_overlays_of_large_photos_are_smaller(models, monkeypatch):
    poses = _poses(boxes=torch.tensor([[40.0, 20.0, 120.0, 100.0]]))
    monkeypatch.setattr("monopose.viz.poses.LARGEST", SIZE[0] * SIZE[1] // 4)
    picture = viz.draw(_frame(), poses, models, labels=False)
    assert picture.size == (80, 60)
    near = np.abs(np.asarray(picture).astype(int) - np.array(viz.object_color(3))).max(-1) < 60
    row = np.flatnonzero(near[36])
    left, right = (20, 60) if models is None else (39.5 - 11.1, 39.5 + 11.1)
    assert row.min() == pytest.approx(left, abs=1.5)
    assert row.max() == pytest.approx(right, abs=1.5)


def test_axes_have_their_colours_and_directions():
    pixels = np.asarray(viz.draw(_frame(), _poses(), [_cube()])).astype(int)
    assert np.abs(pixels[60, 89] - AXES[0]).max() < 90  # x to the right
    assert np.abs(pixels[69, 80] - AXES[1]).max() < 90  # y down


def test_without_models_the_box_is_drawn():
    boxes = torch.tensor([[40.0, 30.0, 110.0, 100.0]])
    changed = _changed(viz.draw(_frame(), _poses(boxes=boxes)))
    assert changed[99, 60:70].all()
    assert changed[80, 40]
    assert not changed[110:].any()
    assert _changed(viz.draw(_frame(), _poses())).any()  # axes and label alone
    other = viz.draw(_frame(), _poses(boxes=boxes), {7: _cube(obj_id=7)})  # a mesh of another object does not help
    assert _changed(other)[80, 40]


def _printed(side=0.1):
    """A box whose colours tell its sides apart."""
    return box((side, side, side), obj_id=3)


def _photo(pose, model):
    """What the camera sees of a model, with light that our overlays do not know."""
    scene = render_scene([model], pose, K, SIZE, background=torch.full((3, *SIZE), 0.5))
    return Frame((0.9 * scene.image + 0.05).clamp(0, 1), Camera(K, SIZE))


def _turned(degrees, z=0.5):
    poses = _poses(z=z)
    turn = rotation.so3_exp(torch.tensor([0.3, 0.5, 0.0])) @ rotation.so3_exp(torch.tensor([0.0, 0.0, math.radians(degrees)]))
    pose = poses.cam_from_obj.clone()
    pose[0, :3, :3] = turn
    return replace(poses, cam_from_obj=pose)


def test_wrong_depth_and_a_turned_pose_are_seen():
    """The right pose leaves the photo's colours as they are; one turned by 180 degrees, and one 12 % too far, do not."""
    model = _printed()
    frame = _photo(_turned(0).cam_from_obj, model)
    before = np.asarray(viz.to_picture(frame.image)).astype(int)
    changes = []
    for poses in (_turned(0), _turned(180), _turned(0, z=0.56)):
        drawn = np.asarray(viz.draw(frame, poses, [model], labels=False)).astype(int)
        changes.append(np.abs(drawn - before).max(-1)[before.max(-1) != 128].mean())
    assert changes[1] > 1.4 * changes[0]
    there, far = (
        _changed(viz.draw(_frame(), poses, [model], labels=False)).sum() for poses in (_turned(0), _turned(0, z=0.56))
    )
    assert far < 0.9 * there


def test_colour_says_the_probability():
    """Sure poses green, doubtful ones red; raw scores have the colour of the object."""
    picture = {}
    for score in (0.0, 0.5, 1.0):
        poses = replace(_poses(), scores=torch.tensor([score]), calibrated=True)
        picture[score] = np.asarray(viz.draw(_frame(), poses, [_cube()], labels=False)).astype(int)
    rim = np.abs(picture[0.0] - np.array(viz.probability_color(0.0))).max(-1) < 40
    assert rim.sum() > 30
    red, green = picture[0.0][rim].mean(0), picture[1.0][rim].mean(0)
    assert red[0] > 1.5 * red[1]
    assert green[1] > 1.5 * green[0]
    assert viz.probability_color(0.5) == (255, 205, 60)
    assert viz.probability_color(7.0) == viz.probability_color(1.0)


def test_what_lies_under_a_model_still_shows():
    grey, stripes = _frame(), torch.full((3, *SIZE), 0.5)
    stripes[:, :, ::8] = 1.0
    frame = Frame(stripes, grey.camera)
    drawn = np.asarray(viz.draw(frame, _poses(), [_cube()], labels=False)).astype(int)[45:55, 60:75]
    assert (drawn.max(1) - drawn.min(1)).min() > 25  # the stripes, through the cube
    plain = np.asarray(viz.draw(grey, _poses(), [_cube()], labels=False)).astype(int)[45:55, 60:75]
    assert plain.std((0, 1)).max() < 12


def test_truth_is_white():
    truth = Instances(torch.tensor([3]), _poses(x=0.1).cam_from_obj)
    pixels = np.asarray(viz.draw(_frame(0.0), _poses(x=-0.1), [_cube()], truth=truth))
    right = pixels[:, 110:].astype(int)
    assert (right.min(-1) > 150).sum() > 50
    assert (right.max(-1) - right.min(-1)).max() < 30  # no colour there


def test_nothing_to_draw_and_hopeless_poses():
    frame = _frame()
    empty = PoseEstimates(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4), torch.zeros(0))
    assert not _changed(viz.draw(frame, empty, [_cube()])).any()
    for z in (-1.0, 0.0, 1e-9, float("nan")):  # behind the camera, inside it, undefined
        assert viz.draw(frame, _poses(z=z), [_cube()]).size == SIZE[::-1]
    assert viz.draw(frame, _poses(x=50.0), [_cube()]).size == SIZE[::-1]


def test_inputs_are_not_modified():
    frame, poses = _frame(), _poses()
    before = frame.image.clone(), poses.cam_from_obj.clone()
    viz.draw(frame, poses, [_cube()])
    viz.draw_detections(
        frame.image, Detections(torch.tensor([1]), torch.tensor([[1.0, 1, 9, 9]]), torch.ones(1), torch.ones(1, *SIZE).bool())
    )
    assert torch.equal(frame.image, before[0])
    assert torch.equal(poses.cam_from_obj, before[1])


def test_labels_do_not_cover_each_other():
    plates = []
    box = (70.0, 50.0, 90.0, 70.0)
    for _ in range(6):
        plates.append(_free_spot(box, (50, 12), (160, 120), plates, [box]))
    for i, a in enumerate(plates):
        assert a[0] >= 0
        assert a[1] >= 0
        assert a[2] < 160
        assert a[3] < 120
        assert all(_overlap(a, b) == 0 for b in plates[:i])
        assert _overlap(a, box) == 0


def test_detections_tint_masks():
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[:, 60:80, 60:80] = True
    found = Detections(torch.tensor([3]), torch.tensor([[50.0, 50.0, 90.0, 90.0]]), torch.tensor([0.5]), mask)
    pixels = np.asarray(viz.draw_detections(torch.zeros(3, *SIZE), found, {3: "cube"}))
    assert pixels[70, 70] == pytest.approx([0.4 * c for c in viz.object_color(3)], abs=1)
    assert pixels[55, 70].tolist() == [0, 0, 0]
    assert pixels[70, 50].max() > 100


def test_coordinate_image():
    xyz = torch.zeros(2, 2, 3)
    xyz[0, 0] = torch.tensor([-1.0, 0.0, 1.0])
    xyz[0, 1] = torch.tensor([1.0, 1.0, 3.0])
    mask = torch.tensor([[True, True], [False, False]])
    pixels = np.asarray(viz.coordinate_image(xyz, mask, torch.tensor([[-1.0, 0.0, 1.0], [1.0, 2.0, 3.0]])))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, 1].tolist() == [255, 128, 255]
    assert pixels[1, 0].tolist() == pixels[1, 1].tolist() == [89, 89, 89]
    assert np.asarray(viz.coordinate_image(xyz, mask))[0, 1].tolist() == [255, 255, 255]
    viz.coordinate_image(xyz, torch.zeros(2, 2, dtype=torch.bool))


def test_value_image():
    pixels = np.asarray(viz.value_image(torch.tensor([[0.0, 1.0, float("nan")]]))).astype(int)
    assert pixels[0, 0].sum() < pixels[0, 1].sum()
    assert pixels[0, 2].tolist() == [90, 90, 90]
    viz.value_image(torch.full((1, 1), float("nan")))


def test_sheets():
    pictures = [torch.rand(3, 20, 30), Image.new("L", (30, 20)), np.zeros((20, 30, 3), np.uint8), torch.ones(20, 30).bool()]
    sheet = viz.contact_sheet(pictures, ["a", "b", "a very long caption that cannot fit below", "d"], width=60)
    assert sheet.size == (2 * 60 + 3 * 6, 2 * (40 + 22) + 3 * 6)
    row = viz.side_by_side(pictures[:3], height=40)
    assert row.size == (3 * 60 + 4 * 6, 40 + 2 * 6)
    with pytest.raises(ValueError, match="2 pictures need as many captions, got 1"):
        viz.contact_sheet(pictures[:2], ["a"])
    with pytest.raises(ValueError, match="at least one picture"):
        viz.contact_sheet([])
    with pytest.raises(ValueError, match=r"expected an image tensor .*got \(20, 30, 3\)"):
        viz.to_picture(torch.zeros(20, 30, 3))


def test_object_colours_differ():
    colors = torch.tensor([viz.object_color(i) for i in range(1, 9)]).float()
    distance = torch.cdist(colors, colors) + 1e3 * torch.eye(8)
    assert distance.min() > 40
