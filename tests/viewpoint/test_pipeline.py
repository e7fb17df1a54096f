import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monopose import weights
from monopose.geometry import boxes as box_ops
from monopose.geometry import camera, rotation, se3, viewpoints
from monopose.render.scene import render_masks
from monopose.types import Camera, Detections, Frame
from monopose.viewpoint import model as viewpoint
from monopose.viewpoint import pipeline, samples
from monopose.viewpoint.model import Viewpoints
from shapes import box

SIZE = (240, 320)
K = camera.K_from_fov(math.radians(60), SIZE)
DEGREES = math.pi / 180


def _chair():
    """Boxes that make a seat with a back at +Y, metres; as an object with no symmetry but its mirror image."""
    seat, back = box((0.5, 0.5, 0.45), (0, 0, -0.225)), box((0.5, 0.06, 0.5), (0, 0.22, 0.25))
    return torch.cat([seat.vertices, back.vertices]), [seat, back]


def _seen(angles):
    sure = torch.full((len(angles), 3, 8), 0.1 / 7)
    sure[..., 0] = 0.9
    return Viewpoints(torch.zeros(len(angles), 3).long(), sure, angles)


def _pose(degrees, t):
    allocentric = se3.from_rt(viewpoints.rotation_of(torch.tensor(degrees).double() * DEGREES), torch.tensor(t).double())
    return se3.egocentric_from_allocentric(allocentric)


@pytest.mark.parametrize(
    "degrees, t",
    [
        ((0, 10, 0), (0.0, 0.0, 3.0)),
        ((40, 25, 5), (0.6, 0.3, 2.5)),
        ((200, -5, -20), (-0.6, 0.1, 2.4)),
        ((310, 50, 0), (0, 0, 1.8)),
    ],
)
def test_the_pose_that_was_rendered_comes_back(degrees, t):
    points, parts = _chair()
    true = _pose(degrees, t)
    masks = render_masks(parts, true.float().expand(2, 4, 4), K, SIZE).masks_full.any(0)[None]
    found = pipeline.poses(_seen(torch.tensor([degrees]) * DEGREES), box_ops.from_masks(masks), Camera(K, SIZE), points)
    distance = true[:3, 3].norm()
    assert float((found.cam_from_obj[0, :3, 3] - true[:3, 3]).norm() / distance) < 0.01
    assert float(rotation.angle_between(found.cam_from_obj[0, :3, :3].double(), true[:3, :3])) < 0.01
    assert found.covariance is None
    assert float(found.scores[0]) == pytest.approx(0.9**3)


@settings(max_examples=15)
@given(
    st.tuples(st.floats(0, 360), st.floats(-60, 80), st.floats(-180, 180)),
    st.tuples(st.floats(-0.6, 0.6), st.floats(-0.4, 0.4)), st.floats(1.0, 8.0),
)  # fmt: skip
def test_projections_fill_the_box_exactly(degrees, direction, distance):
    points, _ = _chair()
    ray = torch.tensor([*direction, 1.0]).double()
    true = _pose(degrees, (ray / ray.norm() * distance).tolist())
    wanted = box_ops.from_points(camera.project(se3.transform(true, points.double()), K.double()))
    angles = torch.tensor([degrees]).double() * DEGREES
    found = pipeline.fill_boxes(angles, wanted[None], K, points)[0]
    torch.testing.assert_close(found, true, atol=1e-3 * distance, rtol=0)


def test_a_wrong_viewpoint_still_gives_the_box_its_place_and_area():
    points, _ = _chair()
    wanted = torch.tensor([[100.0, 50.0, 180.0, 200.0]])
    for degrees in ((90, 0, 0), (10, 80, 45), (180, -30, 170)):
        found = pipeline.fill_boxes(torch.tensor([degrees]) * DEGREES, wanted, K, points)
        seen = box_ops.from_points(camera.project(se3.transform(found, points.double()), K.double()))
        torch.testing.assert_close((seen[:, :2] + seen[:, 2:]) / 2, torch.tensor([[140.0, 125.0]]).double(), atol=1e-3, rtol=0)
        torch.testing.assert_close(box_ops.area(seen), torch.tensor([80.0 * 150.0]).double(), atol=0, rtol=1e-4)


def test_twice_the_object_is_twice_as_far():
    points, _ = _chair()
    angles, wanted = torch.tensor([[30.0, 10, 0]]) * DEGREES, torch.tensor([[100.0, 50.0, 180.0, 200.0]])
    near = pipeline.fill_boxes(angles, wanted, K, points)
    far = pipeline.fill_boxes(angles, wanted, K, 2 * points)
    torch.testing.assert_close(far[:, :3, 3], 2 * near[:, :3, 3])


def test_boxes_that_cannot_be_filled_are_refused():
    points, _ = _chair()
    with pytest.raises(ValueError, match="x0 < x1"):
        pipeline.fill_boxes(torch.zeros(1, 3), torch.tensor([[5.0, 5, 5, 9]]), K, points)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        pipeline.fill_boxes(torch.zeros(2, 3), torch.ones(1, 4), K, points)
    with pytest.raises(ValueError, match="no extent"):
        pipeline.fill_boxes(torch.zeros(1, 3), torch.tensor([[5.0, 5, 15, 9]]), K, points[:1])
    with pytest.raises(ValueError, match="width, depth and height"):
        pipeline.box_corners((1.0, 0.0, 1.0))
    assert pipeline.fill_boxes(torch.zeros(0, 3), torch.zeros(0, 4), K, points).shape == (0, 4, 4)


def test_corners_of_a_size():
    corners = pipeline.box_corners((0.4, 0.6, 0.8))
    assert corners.shape == (8, 3)
    torch.testing.assert_close(corners.amax(0), torch.tensor([0.2, 0.3, 0.4]).double())
    assert len({tuple(c) for c in corners.tolist()}) == 8


# ------------------------------------------------------------------------------------------------------- a run at work


def _save(folder, inputs="rgb", **notes):
    config = viewpoint.Config(
        ("chair",), net="combined", inputs=inputs, input_size=58, widths=(4, 4, 4, 4), hidden=8, bins="centred",
        pretrained=False, concentration=0.0, offsets=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = viewpoint.Model(config)
    weights.save(folder / "viewpoint.safetensors", model.state_dict(), method="viewpoint", config=config, notes=notes)
    return model.eval()


def asked(image, boxes, masks=None):
    """A picture and its objects, as a run takes them."""
    K = camera.K_from_fov(math.radians(60), image.shape[1:])
    found = Detections(torch.ones(len(boxes)).long(), boxes, torch.ones(len(boxes)), masks)
    return Frame(image, Camera(K, tuple(image.shape[1:]))), found


def test_a_run_predicts_what_its_network_says(tmp_path):
    model = _save(tmp_path)
    run = pipeline.load(tmp_path, "cpu")
    image, boxes = torch.rand(3, 80, 100), torch.tensor([[10.0, 10, 60, 70], [40.0, 5, 99, 60]])
    seen = run.predict(*asked(image, boxes))
    wanted = viewpoint.predict(model, run.crops(image, boxes))
    torch.testing.assert_close(seen.probabilities, wanted.probabilities)
    assert seen.angles.shape == (2, 3)
    one = run.predict(*asked(image, boxes[1:]))
    torch.testing.assert_close(one.probabilities[0], seen.probabilities[1])
    rows = run.records(seen, boxes)
    assert rows[1]["box"] == boxes[1].tolist()
    assert rows[0]["azimuth_deg"] == pytest.approx(math.degrees(float(seen.angles[0, 0])))
    assert rows[0]["bins"] == seen.bins[0].tolist()
    assert len(run.predict(*asked(image, torch.zeros(0, 4))).angles) == 0
    frame, _ = asked(image, boxes)
    whole, (crop,) = run.predict_traced(frame)  # one object fills the picture
    torch.testing.assert_close(crop, run.crops(image, torch.tensor([[0.0, 0, 100, 80]]))[0])
    torch.testing.assert_close(whole.probabilities, viewpoint.predict(model, crop[None]).probabilities)


def test_a_network_gets_the_mask_it_was_trained_on_or_says_so(tmp_path):
    _save(tmp_path, "mask")
    run = pipeline.load(tmp_path, "cpu")
    image, boxes = torch.rand(3, 80, 100), torch.tensor([[10.0, 10, 60, 70]])
    with pytest.raises(ValueError, match=r"trained on mask.*--mask FILE"):
        run.predict(*asked(image, boxes))
    full, half = torch.ones(1, 80, 100).bool(), torch.ones(1, 80, 100).bool()
    half[:, :40] = False
    seen = [run.predict(*asked(image, boxes, masks)).probabilities for masks in (full, half)]
    assert not torch.equal(*seen)
    with pytest.raises(ValueError, match="a mask for each of the 1 boxes"):
        run.crops(image, boxes, full.expand(2, -1, -1))


def test_normals_come_from_the_caller_or_from_a_network(tmp_path):
    _save(tmp_path, "normals")
    run = pipeline.load(tmp_path, "cpu")
    image, boxes, masks = torch.rand(3, 80, 100), torch.tensor([[10.0, 10, 60, 70]]), torch.ones(1, 80, 100).bool()
    with pytest.raises(ValueError, match="surface normals"):
        run.predict(*asked(image, boxes, masks))
    flat = torch.zeros(3, 80, 100)
    flat[2] = -1.0
    given = run.crops(image, boxes, masks, flat)

    def told(crops):  # a network that says the same
        return torch.tensor([0.0, 0.0, -1.0])[None, :, None, None].expand(len(crops), 3, *crops.shape[-2:])

    network = replace(run, normals=told, trained={}).crops(image, boxes, masks)
    inside = slice(10, 48)
    torch.testing.assert_close(network[..., inside, inside], given[..., inside, inside])


def test_a_normals_network_in_the_run_folder_is_used(tmp_path):
    from monopose.viewpoint import normals

    _save(tmp_path, "normals", data='{"split_by": "image", "normals": "elsewhere"}')
    config = normals.Config(pretrained=False)
    torch.manual_seed(0)
    network = normals.Model(config).eval()
    weights.save(tmp_path / "normals.safetensors", network.state_dict(), method="normals", config=config)
    run = pipeline.load(tmp_path, "cpu")
    assert pipeline.normals_of(run) == "predicted"
    assert pipeline.normals_of(run, "oracle") == "oracle"
    image, boxes, masks = torch.rand(3, 80, 100), torch.tensor([[10.0, 10, 60, 70]]), torch.ones(1, 80, 100).bool()
    (crop,) = run.crops(image, boxes, masks)
    found, edges = samples.predict_normals(normals.predictor(network), crop[:3])
    torch.testing.assert_close(crop[5:] * 2 - 1, found, atol=1e-5, rtol=0)
    torch.testing.assert_close(crop[4], edges, atol=1e-5, rtol=0)  # as in its training
    assert run.predict(*asked(image, boxes, masks)).bins.shape == (1, 3)


def test_a_folder_without_a_viewpoint_network_says_so(tmp_path):
    (tmp_path / "detector.safetensors").touch()
    with pytest.raises(ValueError, match=r"no viewpoint.safetensors; it holds detector. Train one: monopose train viewpoint"):
        pipeline.load(tmp_path, "cpu")
