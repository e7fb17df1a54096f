"""Poses without training: where objects are placed in boxes, and that the drawing most like the photo is found."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

import monopose
from monopose.commands import demo
from monopose.datasets.bop import scenes
from monopose.datasets.bop.models import read_models
from monopose.geometry import boxes as box_ops
from monopose.geometry import camera as camera_ops
from monopose.geometry import rotation, se3
from monopose.objects import search, silhouettes
from monopose.render.raster import rasterize
from monopose.tracking import commands, options
from monopose.types import Camera, Detections, Frame
from shapes import box

CAMERA = Camera(torch.tensor([[500.0, 0, 160], [0, 500, 120], [0, 0, 1]]), (240, 320))
CONFIG = silhouettes.Config(pretrained=False, frozen_levels=0, widths=(16, 16, 8, 8), drawn=(8, 8, 8))


def test_rotations_leave_no_gap() -> None:
    """Any rotation has one of them near it, and no two are the same."""
    R = search.rotations(72, 6)
    some = rotation.random_rotations(200, generator=torch.Generator().manual_seed(0))
    angles = torch.rad2deg(rotation.angle_between(some[:, None], R[None]).amin(1))
    assert float(angles.max()) < 45
    assert float(angles.median()) < 25
    between = rotation.angle_between(R[:, None], R[None]) + 9 * torch.eye(len(R))
    assert float(between.min()) > math.radians(10)


@pytest.mark.parametrize("middle", [(160.0, 120.0), (60.0, 200.0)])
def test_a_placed_object_fills_its_box(middle: tuple[float, float]) -> None:
    model = box((0.06, 0.04, 0.1), centre=(0.02, 0.3, -0.1))
    given = torch.tensor([middle[0] - 30, middle[1] - 20, middle[0] + 30, middle[1] + 20])
    poses = search.placed(search.rotations(20, 3), model, given, CAMERA.K)
    seen = box_ops.from_points(camera_ops.project(se3.transform(poses, model.corners), CAMERA.K))
    assert torch.allclose((seen[:, :2] + seen[:, 2:]) / 2, (given[:2] + given[2:]).expand(60, 2) / 2, atol=1)
    area = (seen[:, 2:] - seen[:, :2]).prod(1)
    assert torch.allclose(area, torch.tensor(60.0 * 40).expand(60), rtol=0.05)
    assert torch.allclose(poses[:, :3, :3] @ poses[:, :3, :3].mT, torch.eye(3).expand(60, 3, 3), atol=1e-5)


class _Sees(nn.Module):
    """A network that is right where an object is white before black, and the surer, the better the drawing fits."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.exported, self.anchor = CONFIG, None, nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor, drawn: torch.Tensor) -> silhouettes.Output:
        side = images.shape[-1] // 2
        whole, prior = (nn.functional.adaptive_avg_pool2d(m[:, 0], side) for m in (images, drawn))
        logits = whole.clamp(1e-3, 1 - 1e-3).logit()
        doubt = (whole - prior).abs().mean((1, 2))[:, None, None, None].expand(-1, 1, side, side)
        return silhouettes.Output(logits, logits, torch.cat([torch.zeros(len(images), 2, side, side), doubt], 1))


def _frame(model, pose: torch.Tensor) -> Frame:
    fragments = rasterize(se3.transform(pose, model.vertices)[None], model.faces, CAMERA.K, CAMERA.size)
    return Frame((fragments.face >= 0).float().expand(3, -1, -1).clone(), CAMERA)


def test_the_view_most_like_the_photo_is_found() -> None:
    model = replace(box((0.03, 0.05, 0.12)), colors=None)  # as white as the photo
    true = se3.from_rt(rotation.so3_exp(torch.tensor([0.9, -0.4, 0.6])), torch.tensor([0.03, -0.02, 0.45]))
    frame = _frame(model, true)
    corners = camera_ops.project(se3.transform(true, model.corners), CAMERA.K)
    boxes = box_ops.from_points(corners)[None]
    engine = search.Model(search.Config((1,)), {1: model}, _Sees())
    poses = search.predict(engine, frame, Detections(torch.tensor([1]), boxes, torch.tensor([0.8])))
    drawn = _frame(model, poses.cam_from_obj[0]).image[0]
    overlap = (drawn * frame.image[0]).sum() / torch.maximum(drawn, frame.image[0]).sum()
    assert float(overlap) > 0.7
    assert 0 < float(poses.scores[0]) < 0.8


def test_no_boxes_no_poses_and_unknown_objects_are_refused() -> None:
    model = box()
    engine = search.Model(search.Config((1,)), {1: model}, _Sees())
    frame = Frame(torch.zeros(3, *CAMERA.size), CAMERA)
    nothing = Detections(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0))
    assert len(search.predict(engine, frame, nothing)) == 0
    with pytest.raises(ValueError, match="7"):
        search.predict(engine, frame, Detections(torch.tensor([7]), torch.tensor([[10.0, 10, 50, 50]]), torch.ones(1)))


def test_of_what_a_detector_finds_the_best_of_each_object_are_worth_a_search() -> None:
    labels = torch.tensor([1, 2, 1, 1, 1, 1, 2, 1, 1])
    scores = torch.tensor([0.5, 0.2, 0.9, 0.6, 0.3, 0.1, 0.05, 0.55, 0.7])
    found = search.promising(Detections(labels, torch.zeros(9, 4), scores))
    assert found.labels.tolist() == [1, 2, 1, 1, 1, 1]
    assert torch.equal(found.scores, torch.tensor([0.5, 0.2, 0.9, 0.6, 0.55, 0.7]))  # at most five, of a third of the best


OBJECTS = demo.folder() / "objects"
MESH = OBJECTS / "obj_000004.ply"


@pytest.fixture(scope="module")
def picture():
    """A demo picture and the true box of its bottle."""
    scene = scenes.open_scene(demo.folder() / "photos" / "test" / "000001")
    frame = scenes.read_frame(scene, int(scene.im_ids[0]), masks=False, depth=False)
    truth = frame.instances
    row = int((truth.labels == 4).nonzero()[0, 0])
    return frame, truth.boxes[row : row + 1]


def _quick(run):
    run.estimator.config = replace(run.estimator.config, views=10, turns=2, kept=4, rounds=1)
    return run


def test_a_mesh_file_is_a_run_that_needs_boxes(picture) -> None:
    frame, given = picture
    run = _quick(monopose.load(MESH, unit="mm"))
    poses = run.predict(frame, Detections(torch.tensor([1]), given, torch.ones(1)), refine=False)
    assert poses.names == {1: run.names[1]}
    corners = camera_ops.project(se3.transform(poses.cam_from_obj[0], run.models[1].corners), frame.camera.K)
    assert float(box_iou(box_ops.from_points(corners)[None], given)) > 0.4
    with pytest.raises(ValueError, match="--boxes"):
        run.predict(frame)


def test_a_mesh_file_needs_its_unit_and_a_run_has_none() -> None:
    with pytest.raises(ValueError, match="unit"):
        monopose.load(MESH)
    with pytest.raises(ValueError, match="a unit belongs to a mesh file"):
        monopose.load("demo", unit="mm")


def test_a_folder_of_cad_models_is_a_run(picture) -> None:
    frame, given = picture
    run = _quick(monopose.load(OBJECTS))
    assert sorted(run.names) == [1, 2, 3, 4, 5]
    found = run(frame, detections=Detections(torch.tensor([4]), given, torch.ones(1)), refine=False)
    assert set(found.poses.labels.tolist()) <= {4}


def test_a_video_is_followed_from_a_box(picture, monkeypatch) -> None:
    monkeypatch.setattr(search, "Config", partial(search.Config, views=10, turns=2, kept=4, rounds=1))
    frame, given = picture
    model = read_models(OBJECTS, [4])[4]
    found = commands.searched(frame, Detections(torch.tensor([4]), given, torch.ones(1)), [model], "cpu")
    assert list(found) == [0]
    assert found[0].shape == (4, 4)
    with pytest.raises(ValueError, match="no box in the first picture"):
        commands.searched(
            frame, Detections(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0)), [model], "cpu"
        )
    with pytest.raises(ValueError, match="--boxes"):
        options.Track(source="video.mp4", mesh=(MESH,), unit="mm").check()
    with pytest.raises(ValueError, match="give one of them"):
        options.Track(source="video.mp4", mesh=(MESH,), unit="mm", boxes=("1,1,9,9",), start=MESH).check()
