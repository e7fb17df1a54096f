import torch

from monopose.geometry import plausible
from monopose.geometry.boxes import from_points
from monopose.geometry.camera import project

K = torch.tensor([[500.0, 0.0, 319.5], [0.0, 500.0, 239.5], [0.0, 0.0, 1.0]])
SIZE = (480, 640)
CORNERS = torch.cartesian_prod(*[torch.tensor([-0.05, 0.05])] * 3)  # a cube of 10 cm


def _pose(x=0.0, y=0.0, z=0.5):
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([x, y, z])
    return pose


def _why(poses, boxes=None):
    poses = torch.stack(poses)
    codes = plausible.why_not(poses, CORNERS.expand(len(poses), 8, 3), K, SIZE, boxes)
    return [plausible.REASONS[code] for code in codes.tolist()]


def _box(pose):
    return from_points(project(CORNERS + pose[:3, 3], K))


def test_what_can_be_has_no_reason_against_it():
    poses = [_pose(), _pose(0.2, -0.1, 0.9), _pose(0.3, 0.0, 0.5)]  # the last one leaves the picture
    boxes = torch.stack([_box(p) for p in poses])
    assert _why(poses) == ["", "", ""]
    assert _why(poses, boxes) == ["", "", ""]
    seen = torch.cat([boxes[:, :2], boxes[:, 2:].clamp(max=640)], 1)  # a box of what is seen of it
    assert _why(poses, seen) == ["", "", ""]
    assert _why([_pose(z=1.0)], _box(_pose(z=0.5))[None]) == [""]  # twice too far is wrong, but a box may be as loose as that


def test_what_cannot_be_is_named():
    nothing = _pose()
    nothing[0, 3] = float("nan")
    found = _why([_pose(z=-0.5), _pose(z=0.06), nothing])
    assert found == ["behind the camera", "nearer to the camera than 0.1 of its size", "not a number"]
    wanted = _box(_pose())
    boxes = wanted.expand(3, 4)
    found = _why([_pose(z=1.6), _pose(z=0.2), _pose(x=0.2)], boxes)
    assert found[0] == "more than 2.5 times smaller in the picture than its box"
    assert found[1] == "more than 2.5 times as large in the picture as its box"
    assert found[2] == "beside its box in the picture"
    assert _why([_pose(z=-0.5)], boxes[:1]) == ["behind the camera"]  # which comes before what its projection looks like


def test_nothing_at_all():
    assert plausible.why_not(torch.zeros(0, 4, 4), torch.zeros(0, 8, 3), K, SIZE).tolist() == []
