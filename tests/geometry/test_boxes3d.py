"""Boxes in 3D: conventions worked out by hand, overlaps against polygons clipped one by one, axioms, projections."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monopose.geometry import boxes, boxes3d, se3
from monopose.geometry.camera import project as project_points

F64 = torch.float64
K = torch.tensor([[100.0, 0, 49.5], [0, 100.0, 39.5], [0, 0, 1]], dtype=F64)
SIZE = (80, 100)


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def random_bev(n, generator, spread=3.0):
    numbers = torch.rand(n, 5, dtype=F64, generator=generator)
    return torch.cat([(numbers[:, :2] - 0.5) * spread, numbers[:, 2:4] * 4 + 0.1, (numbers[:, 4:] - 0.5) * 4 * math.pi], -1)


def random_boxes(n, generator, distance=(4.0, 30.0)):
    numbers = torch.rand(n, 7, dtype=F64, generator=generator)
    z = distance[0] + numbers[:, 2] * (distance[1] - distance[0])
    centre = torch.stack([(numbers[:, 0] - 0.5) * z, (numbers[:, 1] - 0.5) * 3, z], -1)
    return boxes3d.from_yaw(centre, (numbers[:, 3] - 0.5) * 2 * math.pi), 0.5 + numbers[:, 4:] * 3.5


def clipped_area(a, b):
    """The area that two rectangles share, by Sutherland and Hodgman: the oracle, one pair at a time, in plain Python."""

    def outline(box):
        x, y, length, width, angle = box.tolist()
        c, s = math.cos(angle), math.sin(angle)
        signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
        return [(x + c * u * length / 2 - s * v * width / 2, y + s * u * length / 2 + c * v * width / 2) for u, v in signs]

    polygon, knife = outline(a), outline(b)
    for (x0, y0), (x1, y1) in zip(knife, knife[1:] + knife[:1]):
        sides = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x, y in polygon]
        kept = []
        for k, (p, d) in enumerate(zip(polygon, sides)):
            q, e = polygon[k - 1], sides[k - 1]
            if (d >= 0) != (e >= 0):
                kept.append(tuple(qk + (pk - qk) * e / (e - d) for pk, qk in zip(p, q)))
            if d >= 0:
                kept.append(p)
        polygon = kept
    return 0.5 * sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(polygon, polygon[1:] + polygon[:1]))


# -------------------------------------------------------------------------------------------------------- conventions


def test_corners_of_a_car_that_faces_right():
    pose = boxes3d.from_yaw(tensor(0.0, 1.0, 10.0), tensor(0.0).squeeze())
    found = boxes3d.corners(pose, tensor(4.0, 1.5, 2.0))
    assert found[0].tolist() == [-2.0, 0.25, 9.0]  # back, top, right side: nearest to the camera
    assert found[1].tolist() == [2.0, 0.25, 9.0]  # front
    assert found[2].tolist() == [-2.0, 1.75, 9.0]  # bottom
    assert found[4].tolist() == [-2.0, 0.25, 11.0]  # the left of a car that faces right is away from us


def test_yaw_turns_the_front_towards_the_camera():
    pose = boxes3d.from_yaw(tensor(0.0, 0, 10), torch.tensor(math.pi / 2, dtype=F64))
    front = se3.transform(pose, tensor([2.0, 0, 0]))[0]
    assert torch.allclose(front, tensor(0.0, 0, 8))


@given(st.floats(-math.pi + 1e-6, math.pi - 1e-6), st.floats(-30, 30), st.floats(1, 80))
@settings(max_examples=50)
def test_yaw_and_alpha_round_trip(yaw, x, z):
    angle, centre = torch.tensor(yaw, dtype=F64), tensor(x, 1.0, z)
    assert boxes3d.yaw_of(boxes3d.from_yaw(centre, angle)) == pytest.approx(yaw, abs=1e-12)
    alpha = boxes3d.alpha_from_yaw(angle, centre)
    assert -math.pi <= alpha < math.pi
    assert boxes3d.yaw_from_alpha(alpha, centre) == pytest.approx(yaw, abs=1e-12)


def test_alpha_is_the_yaw_seen_along_the_ray():
    centre = tensor(10.0, 0, 10)  # at 45 degrees to the right
    away = torch.tensor(-math.pi / 4, dtype=F64)  # driving away along the ray
    assert boxes3d.alpha_from_yaw(away, centre) == pytest.approx(-math.pi / 2)  # as a car straight ahead that drives away


def test_bottom_and_centre():
    lhw, bottom = tensor(4.0, 1.5, 1.8), tensor(1.0, 1.7, 9.0)
    assert boxes3d.centre_from_bottom(bottom, lhw).tolist() == pytest.approx([1.0, 0.95, 9.0])
    assert torch.equal(boxes3d.bottom_from_centre(boxes3d.centre_from_bottom(bottom, lhw), lhw), bottom)


def test_orders_of_sizes():
    lhw = tensor(4.0, 1.5, 1.8)
    assert boxes3d.hwl_from_lhw(lhw).tolist() == [1.5, 1.8, 4.0]
    assert boxes3d.wlh_from_lhw(lhw).tolist() == [1.8, 4.0, 1.5]
    assert boxes3d.lhw_from_lwh(tensor(4.0, 1.8, 1.5)).tolist() == lhw.tolist()
    assert torch.equal(boxes3d.lhw_from_hwl(boxes3d.hwl_from_lhw(lhw)), lhw)
    assert torch.equal(boxes3d.lhw_from_wlh(boxes3d.wlh_from_lhw(lhw)), lhw)


# ------------------------------------------------------------------------------------------------------------ overlaps


def test_overlap_is_that_of_clipped_polygons():
    generator = torch.Generator().manual_seed(0)
    a, b = random_bev(400, generator), random_bev(400, generator)
    expected = tensor(*[clipped_area(p, q) for p, q in zip(a, b)])
    assert (expected > 0.01).sum() > 100
    assert (expected == 0).sum() > 20
    assert torch.allclose(boxes3d.bev_intersection(a, b), expected, atol=1e-12, rtol=0)
    # shapely 2.2 agrees to 5e-15 square metres on 2,000 such pairs; it is not needed here


def test_overlaps_worked_out_by_hand():
    square = tensor(0.0, 0, 2, 2, 0)
    tilted = tensor(0.0, 0, 2, 2, math.pi / 4)
    octagon = 8 * (math.sqrt(2) - 1)
    assert boxes3d.bev_intersection(square, tilted) == pytest.approx(octagon, abs=1e-12)
    assert boxes3d.bev_iou(square, tensor(1.0, 0, 2, 2, 0)) == pytest.approx(1 / 3)
    assert boxes3d.bev_iou(square, tensor(0.0, 0, 1, 1, 0.3)) == pytest.approx(1 / 4)  # inside
    assert boxes3d.bev_iou(square, tensor(0.0, 0, 20, 0.5, math.pi / 2)) == pytest.approx(1 / (4 + 10 - 1))  # a cross
    assert boxes3d.bev_iou(square, tensor(2.0, 0, 2, 2, 0)) == 0  # touching along an edge
    assert boxes3d.bev_iou(square, tensor(2.0, 2, 2, 2, 0)) == 0  # touching in a corner
    assert boxes3d.bev_iou(square, tensor(9.0, 0, 2, 2, 1)) == 0
    assert boxes3d.bev_iou(square, tensor(0.0, 0, 2, 0, 0.2)) == 0  # no width
    assert boxes3d.bev_iou(tensor(0.0, 0, 0, 0, 0), tensor(0.0, 0, 0, 0, 0)) == 0  # nothing and nothing


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_axioms_of_the_overlap(dtype):
    generator = torch.Generator().manual_seed(1)
    a, b = random_bev(500, generator).to(dtype), random_bev(500, generator).to(dtype)
    small = 1e-12 if dtype == F64 else 2e-5
    assert bool((boxes3d.bev_iou(a, a) == 1).all())
    turned = a + a.new_tensor([0, 0, 0, 0, math.pi])
    assert torch.allclose(boxes3d.bev_iou(a, turned), torch.ones(500, dtype=dtype), atol=small)
    ab, ba = boxes3d.bev_iou(a, b), boxes3d.bev_iou(b, a)
    assert torch.allclose(ab, ba, atol=small)
    assert float(ab.min()) >= 0
    assert float(ab.max()) <= 1
    nearly = a + 1e-7 * torch.randn(a.shape, generator=generator).to(dtype)  # edges that all but coincide
    assert torch.allclose(boxes3d.bev_iou(a, nearly), torch.ones(500, dtype=dtype), atol=1e-4)


def test_overlap_of_all_pairs_and_its_gradient():
    generator = torch.Generator().manual_seed(2)
    a, b = random_bev(5, generator), random_bev(7, generator)
    pairs = boxes3d.bev_iou(a[:, None], b[None])
    assert pairs.shape == (5, 7)
    assert pairs[3, 4] == pytest.approx(float(boxes3d.bev_iou(a[3], b[4])))
    a, b = tensor(0.3, -0.2, 3, 2, 0.4).requires_grad_(), tensor(0.0, 0, 2, 2.5, 1.1).requires_grad_()
    assert torch.autograd.gradcheck(boxes3d.bev_iou, (a, b))
    same = tensor(0.0, 0, 2, 2, 0).requires_grad_()
    boxes3d.bev_iou(same, tensor(0.0, 0, 2, 2, 0)).backward()
    assert bool(torch.isfinite(same.grad).all())  # edges that coincide, parallel to both axes


@pytest.mark.parametrize("ground", [boxes3d.CAMERA_GROUND, boxes3d.EGO_GROUND])
def test_iou_in_3d(ground):
    generator = torch.Generator().manual_seed(3)
    pose, lhw = random_boxes(50, generator)
    to_frame = torch.eye(4, dtype=F64)
    if ground == boxes3d.EGO_GROUND:  # x forwards, y left, z up from x right, y down, z forwards
        to_frame[:3, :3] = tensor([0.0, 0, 1], [-1, 0, 0], [0, -1, 0])
    pose = to_frame @ pose
    assert bool((boxes3d.iou(pose, lhw, pose, lhw, ground) == 1).all())
    higher = pose.clone()
    higher[:, 3 - sum(ground), 3] += lhw[:, 1] / 4
    assert torch.allclose(boxes3d.iou(pose, lhw, higher, lhw, ground), torch.full((50,), 0.6, dtype=F64))
    assert torch.allclose(boxes3d.iou(higher, lhw, pose, lhw, ground), torch.full((50,), 0.6, dtype=F64))
    above = pose.clone()
    above[:, 3 - sum(ground), 3] += lhw[:, 1] * 1.01
    assert bool((boxes3d.iou(pose, lhw, above, lhw, ground) == 0).all())
    pairs = boxes3d.iou(pose[:, None], lhw[:, None], pose[None], lhw[None], ground)
    assert torch.allclose(pairs, pairs.mT, atol=1e-12)
    assert float(pairs.max()) <= 1


def test_iou_counts_random_points():
    generator = torch.Generator().manual_seed(4)
    a, size_a = boxes3d.from_yaw(tensor(0.0, 0, 10), torch.tensor(0.3, dtype=F64)), tensor(4.0, 1.5, 2.0)
    b, size_b = boxes3d.from_yaw(tensor(0.6, 0.3, 10.4), torch.tensor(1.0, dtype=F64)), tensor(3.5, 2.0, 1.6)
    points = (torch.rand(200_000, 3, dtype=F64, generator=generator) - 0.5) * 8 + tensor(0.0, 0, 10)

    def within(pose, lhw):
        return (se3.transform(se3.inverse(pose), points).abs() <= lhw / 2).all(-1)

    in_a, in_b = within(a, size_a), within(b, size_b)
    counted = (in_a & in_b).sum() / (in_a | in_b).sum()
    assert boxes3d.iou(a, size_a, b, size_b) == pytest.approx(float(counted), abs=0.02)


def test_suppression_keeps_the_best_of_each_heap():
    bev = tensor([0.0, 0, 4, 2, 0], [0.2, 0, 4, 2, 0.1], [9, 0, 4, 2, 0], [1.9, 0, 4, 2, 0], [9, 0.1, 4, 2, 1.5])
    scores = tensor(0.5, 0.9, 0.3, 0.4, 0.2)
    kept = boxes3d.bev_nms(bev, scores, 0.25)
    assert kept.tolist() == [1, 2]  # 0 and 3 lie on 1, 4 crosses 2
    assert boxes3d.bev_nms(bev, scores, 0.5).tolist() == [1, 3, 2, 4]
    assert boxes3d.bev_nms(bev[:0], scores[:0], 0.5).tolist() == []
    generator = torch.Generator().manual_seed(5)
    bev, scores = random_bev(60, generator, 20.0), torch.rand(60, generator=generator)
    kept = boxes3d.bev_nms(bev, scores, 0.1)
    left = boxes3d.bev_iou(bev[kept][:, None], bev[kept][None]).fill_diagonal_(0)
    assert float(left.max()) <= 0.1
    gone = sorted(set(range(60)) - set(kept.tolist()))
    assert gone
    for k in gone:
        better = kept[scores[kept] > scores[k]]
        assert float(boxes3d.bev_iou(bev[k], bev[better]).max()) > 0.1


# --------------------------------------------------------------------------------------------------------- in the image


def test_projection_of_boxes_in_front_is_that_of_their_corners():
    pose, lhw = random_boxes(100, torch.Generator().manual_seed(6), (8.0, 30.0))
    expected = boxes.from_points(project_points(boxes3d.corners(pose, lhw), K))
    assert torch.allclose(boxes3d.project(pose, lhw, K), expected, atol=1e-9)


def test_projection_is_the_box_of_what_is_seen():
    """Against many points of each box, of which those count that the image shows."""
    generator = torch.Generator().manual_seed(7)
    pose, lhw = random_boxes(60, generator, (-2.0, 8.0))  # around, through and behind the camera
    found = boxes3d.project(pose, lhw, K, SIZE, near=0.5)
    steps = torch.linspace(-0.5, 0.5, 41, dtype=F64)
    cube = torch.cartesian_prod(steps, steps, steps)
    some, slacks = 0, []
    for k in range(60):
        points = se3.transform(pose[k], cube * lhw[k])
        points = points[points[:, 2] >= 0.5]
        pixels = (points @ K.T)[:, :2] / points[:, 2:] + 0.5
        pixels = pixels[(pixels >= 0).all(-1) & (pixels <= tensor(100.0, 80.0)).all(-1)]
        if not len(pixels):
            assert float(boxes.area(found[k])) < 300
            continue
        some += 1
        rough = torch.cat([pixels.amin(0), pixels.amax(0)])
        slack = (rough - found[k]) * tensor(1.0, 1, -1, -1)
        assert float(slack.min()) > -1e-6  # nothing seen lies outside the box
        assert float(slack.max()) < float(lhw[k].norm()) / 40 * 100 / 0.5  # the spacing of the points at the near plane
        slacks.append(slack)
    assert some > 25
    assert float(torch.stack(slacks).median()) < 0.2


def test_boxes_behind_around_and_beside_the_camera():
    eye, lhw = torch.eye(3, dtype=F64), tensor(2.0, 2.0, 2.0)
    poses = torch.stack([se3.from_rt(eye, tensor(*t)) for t in ((0, 0, -5), (0, 0, 0), (50, 0, 5), (0, 0, 5))])
    found = boxes3d.project(poses, lhw, K, SIZE)
    assert found[0].tolist() == [0, 0, 0, 0]  # behind
    assert found[1].tolist() == [0, 0, 100, 80]  # the camera is inside: all four corners of the image look at it
    assert found[2].tolist() == [0, 0, 0, 0]  # beside what is seen
    assert torch.allclose(found[3], tensor(25.0, 15, 75, 65))  # 2 m at 4 m: 50 pixels around the principal point
    assert boxes3d.project(poses[:1], lhw, K).tolist() == [[0, 0, 0, 0]]
    cut = boxes3d.project(se3.from_rt(eye, tensor(0.0, 0, 0.5)), lhw, K, near=0.25)
    assert torch.allclose(cut, tensor(-350.0, -360, 450, 440))  # the near plane cuts at 0.25 m


def test_what_a_tilted_outline_loses_at_the_edge_is_not_counted():
    """A long box from far inside the image to beside the camera leaves at the side, before its lowest point."""
    pose, lhw = boxes3d.from_yaw(tensor(3.0, 1.0, 4.0), torch.tensor(math.pi / 2, dtype=F64)), tensor(7.0, 1.0, 1.0)
    exact = boxes3d.project(pose, lhw, K, SIZE)
    clipped = boxes.clipped(boxes3d.project(pose, lhw, K), SIZE)
    assert exact[3] < clipped[3] - 5
    assert exact[2] == clipped[2] == 100
