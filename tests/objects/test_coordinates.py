"""The coordinate network: symmetric targets, losses, crops and both stages against closed forms."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from monopose.geometry import boxes as box_ops
from monopose.geometry import camera as camera_ops
from monopose.geometry import rotation, se3
from monopose.nets import unet
from monopose.objects import bins, coordinates
from monopose.objects.networks import Pix2PoseGenerator
from monopose.render.scene import render_masks
from monopose.types import Camera, Detections, Frame, Symmetries
from shapes import box, half_turn, seen_on_box
from tiny_networks import TinyBackbone

SMALL = {"backbone": "resnet18", "pretrained": False, "input_size": 64, "output_size": 32, "widths": (16, 16, 16, 16)}


def network(*models, **changes):
    torch.manual_seed(0)
    config = coordinates.Config(tuple(m.obj_id for m in models), **{**SMALL, **changes})
    return coordinates.Model(config, {m.obj_id: m for m in models})


def batch_of(points, label=1, side=32, hidden=0):
    """One sample whose first pixels see the given points, (n, 3) metres; the last `hidden` of them are occluded."""
    n = len(points)
    xyz = torch.zeros(3, side * side)
    full = torch.zeros(side * side, dtype=torch.bool)
    xyz[:, :n], full[:n] = points.T, True
    visible = full.clone()
    visible[n - hidden : n] = False
    return {
        "coordinates": xyz.unflatten(1, (side, side))[None], "label": torch.tensor([label]),
        "mask_full": full.unflatten(0, (side, side))[None], "mask_visible": visible.unflatten(0, (side, side))[None],
    }  # fmt: skip


def says(model, batch, points):
    """An output whose object pixels hold these points, (n, 3) metres, normalised in closed form."""
    low, high = model.corners[0].amin(0), model.corners[0].amax(0)
    said = batch["coordinates"].clone()
    said.flatten(2)[0, :, : len(points)] = ((points - (low + high) / 2) / ((high - low) / 2)).T
    h = said.shape[-1]
    return coordinates.Output(said, torch.zeros(1, h, h), torch.zeros(1, h, h))


def turned(points, axis, degrees, through):
    angle = math.radians(degrees)
    R = rotation.so3_exp(torch.tensor(axis, dtype=torch.float64) * angle).float()
    return (points - through) @ R.T + through


# ------------------------------------------------------------------------------------------------------- transformer loss


def test_continuous_symmetry_about_an_offset_axis_with_unequal_scales():
    through = torch.tensor([0.01, -0.005, 0.0])
    axis = Symmetries(axes=torch.tensor([[0.0, 0.0, 1.0]]), offsets=through[None])
    # the box of the object is neither centred on the axis nor equally long in x and y
    model = network(box((0.08, 0.05, 0.1), (0.01, 0.002, 0.03), symmetries=axis), symmetry_steps=12)
    points = (torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.06
    batch = batch_of(points)
    for degrees in (0, 30, 150, 330):
        variant = turned(points, (0, 0, 1), degrees, through)
        output = says(model, batch, variant)
        target = coordinates.symmetric_targets(model, output, batch)
        torch.testing.assert_close(target.flatten(2)[0, :, :20], output.coordinates.flatten(2)[0, :, :20], atol=1e-5, rtol=0)
        losses = coordinates.loss(model, output, batch)
        assert float(losses["coordinates"]) < 1e-5
    between = says(model, batch, turned(points, (0, 0, 1), 41, through))  # 41 degrees: 30 is nearer than 60
    expected = says(model, batch, turned(points, (0, 0, 1), 30, through))
    target = coordinates.symmetric_targets(model, between, batch)
    torch.testing.assert_close(target.flatten(2)[0, :, :20], expected.coordinates.flatten(2)[0, :, :20], atol=1e-5, rtol=0)


def test_discrete_symmetry_takes_the_inverse_motion():
    # a third of a turn is not its own inverse, so the direction of the motion shows
    third = torch.eye(4)
    third[:3, :3] = rotation.so3_exp(torch.tensor([0.0, 0.0, 2 * math.pi / 3]))
    third[:3, 3] = torch.tensor([0.02, 0.0, 0.0]) - third[:3, :3] @ torch.tensor([0.02, 0.0, 0.0])
    model = network(box((0.08, 0.05, 0.1), symmetries=Symmetries(discrete=third[None])))
    points = (torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.05
    batch = batch_of(points)
    # under the pose T S the pixel that sees p under T sees S^-1 p
    good = says(model, batch, se3.transform(se3.inverse(third), points))
    assert float(coordinates.loss(model, good, batch)["coordinates"]) < 1e-5
    wrong = says(model, batch, se3.transform(third, points))
    assert float(coordinates.loss(model, wrong, batch)["coordinates"]) > 0.05


def test_asymmetric_objects_share_a_batch_with_symmetric_ones():
    turn = Symmetries(discrete=half_turn(2)[None])
    plain, symmetric = box(obj_id=4), box((0.06, 0.08, 0.1), obj_id=9, symmetries=turn)
    model = network(plain, symmetric)
    points = (torch.rand(20, 3, generator=torch.Generator().manual_seed(2)) - 0.5) * 0.05
    mirrored = points * torch.tensor([-1.0, -1.0, 1.0])
    batches = [batch_of(points, 9), batch_of(points, 4)]
    batch = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}
    said = torch.zeros(2, 3, 32, 32)
    for row, size in ((0, (0.06, 0.08, 0.1)), (1, (0.08, 0.06, 0.1))):
        said[row].flatten(1)[:, :20] = (mirrored / (torch.tensor(size) / 2)).T
    output = coordinates.Output(said, torch.zeros(2, 32, 32), torch.zeros(2, 32, 32))
    target = coordinates.symmetric_targets(model, output, batch)
    torch.testing.assert_close(target[0], said[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(target[1].flatten(1)[:2, :20], -said[1].flatten(1)[:2, :20], atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------------------- the losses


def test_loss_in_closed_form():
    model = network(box((0.2, 0.2, 0.2)))
    points = torch.zeros(4, 3)
    batch = batch_of(points, hidden=1)
    output = says(model, batch, torch.tensor([[0.03, 0.0, 0.0]] * 3 + [[0.06, 0.0, 0.0]]))  # 0.3 and 0.6 normalised
    losses = coordinates.loss(model, output, batch)
    weight = 3 * 3 + 1  # three visible pixels of weight beta = 3, one hidden of weight 1
    assert float(losses["coordinates"]) == pytest.approx((3 * 3 * 0.1 + 0.2) / weight, rel=1e-5)
    expected = 0.5 * (3 * 3 * (0.5 - 0.1) ** 2 + (0.5 - 0.2) ** 2) / weight
    assert float(losses["error"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses["mask"]) == pytest.approx(0.3 * math.log(2), rel=1e-5)  # logit 0 everywhere


def test_the_expected_error_is_at_most_one():
    model = network(box((0.2, 0.2, 0.2)))
    batch = batch_of(torch.zeros(4, 3))
    far = says(model, batch, torch.full((4, 3), 0.5))  # 5 normalised
    assert float(coordinates.loss(model, far, batch)["error"]) == pytest.approx(0.5 * (0.5 - 1) ** 2, rel=1e-5)


def test_grey_background_is_taught():
    model = network(box((0.2, 0.2, 0.2)), grey_background=True, mask_weight=0.0)
    batch = batch_of(torch.zeros(4, 3))
    output = coordinates.Output(torch.full((1, 3, 32, 32), 0.25), torch.zeros(1, 32, 32), torch.zeros(1, 32, 32))
    losses = coordinates.loss(model, output, batch)
    assert set(losses) == {"coordinates", "error"}
    # object at its centre and background both want 0; the four visible pixels count thrice
    assert float(losses["coordinates"]) == pytest.approx(0.25 * (1020 + 4 * 3) / 1024)
    far = output._replace(coordinates=torch.where(batch["mask_full"][:, None], 0.0, 1.0).expand(1, 3, 32, 32))
    assert float(coordinates.loss(model, far, batch)["coordinates"]) == pytest.approx(1020 / 1024)
    without = network(box((0.2, 0.2, 0.2)))
    assert float(coordinates.loss(without, far, batch)["coordinates"]) == 0


def test_an_empty_mask_gives_finite_losses():
    model = network(box(symmetries=Symmetries(discrete=half_turn(2)[None])))
    losses = coordinates.loss(model, model(torch.rand(1, 3, 64, 64), torch.tensor([1])), batch_of(torch.zeros(0, 3)))
    assert all(bool(torch.isfinite(v)) for v in losses.values())
    assert float(losses["coordinates"].detach()) == 0


def test_every_part_of_the_head_learns():
    model = network(box(obj_id=3), box(obj_id=7))
    batches = [batch_of((torch.rand(50, 3) - 0.5) * 0.05, label) for label in (3, 7)]
    batch = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}
    losses = coordinates.loss(model, model(torch.rand(2, 3, 64, 64), batch["label"]), batch)
    torch.stack(list(losses.values())).sum().backward()
    head = model.net.head
    assert (head.weight.grad.abs().sum(-1) > 0).all()  # each of five outputs of each object
    assert (head.bias.grad != 0).all()
    assert (model.net.which.weight.grad.abs().sum(-1) > 0).all()
    unused = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not bool(p.grad.abs().sum() > 0))
    ]
    assert unused == []


def test_only_the_object_that_is_asked_for_learns():
    model = network(box(obj_id=3), box(obj_id=7))
    batch = batch_of((torch.rand(50, 3) - 0.5) * 0.05, 7)
    losses = coordinates.loss(model, model(torch.rand(1, 3, 64, 64), batch["label"]), batch)
    sum(losses.values()).backward()
    assert float(model.net.head.weight.grad[0].abs().sum()) == 0
    assert float(model.net.head.weight.grad[1].abs().sum()) > 0


# ------------------------------------------------------------------------------------------------------- published network


def test_published_generator_layer_by_layer():
    torch.manual_seed(0)
    net = Pix2PoseGenerator().eval()
    shapes = {}
    parts = [*net.encoder.named_children(), *net.named_children()]
    for name, module in parts:
        module.register_forward_hook(lambda _m, given, out, name=name: shapes.update({name: (given[0].shape[1:], out)}))
    assert net(torch.rand(1, 3, 128, 128), torch.tensor([0])).shape == (1, 4, 128, 128)
    for name, side, deep, skip in (
        ("down1", 64, 128, 64),
        ("down2", 32, 256, 128),
        ("down3", 16, 256, 128),
        ("down4", 8, 512, 256),
    ):
        out, kept = shapes[name][1]
        assert out.shape[1:] == (deep, side, side)
        assert kept.shape[1:] == (skip, side, side)
        torch.testing.assert_close(out[:, deep // 2 :], kept)  # the second half feeds the skip
    assert shapes["dense"][0] == (8 * 8 * 512,)
    assert [m.out_features for m in net.dense] == [256, 8 * 8 * 256]
    for name, given, made, side in (
        ("up1", 256, 256, 16), ("mix1", 384, 256, 16), ("up2", 256, 128, 32),
        ("mix2", 256, 256, 32), ("up3", 256, 64, 64), ("mix3", 128, 128, 64),
    ):  # fmt: skip
        assert shapes[name][0][0] == given, name
        assert shapes[name][1].shape[1:] == (made, side, side), name
    kernels = {m.kernel_size for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)}
    assert kernels == {(5, 5)}
    assert {m.negative_slope for m in net.modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.3}


def test_published_preset_answers_in_its_own_terms():
    model = coordinates.Model(coordinates.pix2pose((1,)), {1: box()})
    output = model.eval()(torch.rand(2, 3, 128, 128), torch.tensor([1, 1]))
    assert output.coordinates.shape == (2, 3, 128, 128)
    assert output.coordinates.abs().max() <= 1
    torch.testing.assert_close(output.mask > 0, output.coordinates.norm(dim=1) > 0.3)  # the published rule
    with pytest.raises(ValueError, match="128 to 128 pixels, got 64 to 128"):
        coordinates.Model(dataclasses.replace(coordinates.pix2pose((1,)), input_size=64), {1: box()})


@pytest.mark.slow
def test_adversarial_loss_teaches_the_generator_only():
    model = coordinates.Model(dataclasses.replace(coordinates.pix2pose((1,)), adversarial_weight=0.5), {1: box()})
    before = {n: p.detach().clone() for n, p in model.discriminator.named_parameters()}
    batch = batch_of((torch.rand(400, 3) - 0.5) * 0.05, side=128)
    batch = {k: v.repeat(2, *[1] * (v.dim() - 1)) for k, v in batch.items()}
    images = torch.rand(2, 3, 128, 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(images, batch["label"])
    losses = coordinates.loss(model, output, batch)
    assert float(losses["adversarial"].detach()) > 0
    (gradient,) = torch.autograd.grad(losses["adversarial"], output.coordinates, retain_graph=True)
    assert float(gradient.abs().sum()) > 0  # it is heard by the generator
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.discriminator.parameters())
    optimizer.step()
    assert all(torch.equal(before[n], p) for n, p in model.discriminator.named_parameters())

    optimizer.zero_grad()
    value = coordinates.discriminator_loss(model, output, batch)
    value.backward()
    assert all(p.grad is None for p in model.net.parameters())  # and the discriminator's step leaves the generator alone
    assert all(p.grad is not None for p in model.discriminator.parameters())


@pytest.mark.slow
def test_discriminator_learns_to_tell_rendered_from_predicted():
    torch.manual_seed(0)
    model = coordinates.Model(coordinates.pix2pose((1,)), {1: box()})
    batch = batch_of((torch.rand(6000, 3) - 0.5) * 0.05, side=128)
    batch = {k: v.repeat(2, *[1] * (v.dim() - 1)) for k, v in batch.items()}
    noise = coordinates.Output(torch.rand(2, 3, 128, 128) * 2 - 1, torch.zeros(2, 128, 128), torch.zeros(2, 128, 128))
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=1e-3)
    for _ in range(16):  # labels are smoothed and swapped at random
        optimizer.zero_grad()
        coordinates.discriminator_loss(model, noise, batch).backward()
        optimizer.step()
    real = model.normalise(batch["coordinates"], torch.zeros(2, dtype=torch.long)) * batch["mask_full"][:, None]
    with torch.no_grad():
        assert model.discriminator(real).mean() > model.discriminator(noise.coordinates).mean()


def test_without_a_discriminator_its_loss_says_so():
    model = network(box())
    with pytest.raises(ValueError, match="adversarial_weight > 0"):
        coordinates.discriminator_loss(
            model, says(model, batch_of(torch.zeros(1, 3)), torch.zeros(1, 3)), batch_of(torch.zeros(1, 3))
        )


# -------------------------------------------------------------------------------------------------------------- the model


def test_unknown_objects_are_named():
    model = network(box(obj_id=3), box(obj_id=7))
    assert model.index_of(torch.tensor([7, 3, 7])).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"object id\(s\) \[5, 8\] are unknown .* trained on \[3, 7\]"):
        model.index_of(torch.tensor([8, 3, 5]))
    with pytest.raises(ValueError, match=r"no CAD model for object\(s\) \[7\]; the folder holds \[3\]"):
        coordinates.Model(coordinates.Config((3, 7), **SMALL), {3: box(obj_id=3)})
    with pytest.raises(ValueError, match="obj_ids is empty"):
        coordinates.Model(coordinates.Config(**SMALL))
    with pytest.raises(ValueError, match="output_size must be 32, got 64"):
        network(box(), output_size=64)


def test_geometry_of_the_objects_travels_with_the_weights():
    model = network(box((0.08, 0.05, 0.1), (0.01, 0.0, 0.02), symmetries=Symmetries(discrete=half_turn(2)[None])))
    torch.testing.assert_close(model.centre, torch.tensor([[0.01, 0.0, 0.02]]))
    torch.testing.assert_close(model.scale, torch.tensor([[0.04, 0.025, 0.05]]))
    bare = coordinates.Model(model.config)
    bare.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(bare.corners, model.corners)


# ----------------------------------------------------------------------------------------------- crops, PnP and two stages

SIZE, CENTRE = (0.09, 0.06, 0.12), (0.01, -0.01, 0.02)


class Oracle:
    """Stands in for the network: the picture tells each pixel where it is, the closed form tells what is seen there."""

    def __init__(self, model, camera, poses, hide=False):
        self.model, self.camera, self.poses, self.hide = model, camera, poses, hide
        self.seen = []

    def __call__(self, crops, labels):
        self.seen.append(crops)
        inside = torch.nn.functional.avg_pool2d(crops, 2)  # exact for a linear ramp
        height, width = self.camera.size
        pixels = torch.stack([inside[:, 0] * width, inside[:, 1] * height], -1)
        known = torch.nn.functional.avg_pool2d((crops[:, 2:] > 0.999).float(), 2)[:, 0] == 1
        said = torch.zeros(len(crops), 3, *pixels.shape[1:3])
        mask = torch.zeros(len(crops), *pixels.shape[1:3])
        for i, label in enumerate(labels.tolist()):
            points, hit = seen_on_box(pixels[i], self.poses[label], self.camera.K, SIZE, CENTRE)
            hit &= known[i]
            index = self.model.index_of(labels[i : i + 1])
            points = self.model.normalise(points.float().permute(2, 0, 1)[None], index)[0]
            said[i] = torch.where(hit, points, torch.zeros_like(points))
            mask[i] = torch.where(hit & (not self.hide), 20.0, -20.0)
        return coordinates.Output(said, torch.full_like(mask, -200.0), mask)  # expects an error of exactly 0


def scene(centres, size=(240, 320), distance=0.6):
    """A picture that tells every pixel its place, objects seen around the given pixels, and the oracle network."""
    K = torch.tensor([[300.0, 0.0, 161.3], [0.0, 310.0, 117.8], [0.0, 0.0, 1.0]])
    camera = Camera(K, size)
    grid = camera_ops.pixel_grid(size, dtype=torch.float64)
    image = torch.stack([grid[..., 0] / size[1], grid[..., 1] / size[0], torch.zeros(size)]).float()
    image[2, 1:-1, 1:-1] = 1  # "I know my place": a smoothed ramp is none where it ends
    models, poses = [], {}
    for n, (u, v) in enumerate(centres, 1):
        models.append(box(SIZE, CENTRE, n))
        R = rotation.so3_exp(torch.tensor([0.4 * n, -0.7, 0.3 + 0.5 * n], dtype=torch.float64))
        t = torch.linalg.inv(K.double()) @ torch.tensor([u, v, 1.0], dtype=torch.float64) * distance
        poses[n] = se3.from_rt(R, t - R @ torch.tensor(CENTRE, dtype=torch.float64))
    model = network(*models).eval()
    oracle = Oracle(model, camera, poses)
    model.forward = oracle
    return model, Frame(image, camera), poses, oracle


def jittered(model, frame, poses, seed, amount=0.08):
    rng = torch.Generator().manual_seed(seed)
    boxes = []
    for n in poses:
        corners = se3.transform(poses[n].float(), model.corners[int(model.index_of(torch.tensor([n]))[0])])
        tight = box_ops.from_points(camera_ops.project(corners, frame.camera.K))
        boxes.append(tight + (torch.rand(4, generator=rng) - 0.5) * 2 * amount * (tight[2:] - tight[:2]).repeat(2))
    return Detections(torch.tensor(list(poses)), torch.stack(boxes), torch.ones(len(poses)))


def check(estimates, poses, mm=0.1, deg=0.01):
    assert estimates.labels.tolist() == list(poses)
    for estimate, label in zip(estimates.cam_from_obj.double(), estimates.labels.tolist(), strict=True):
        shift = (estimate[:3, 3] - poses[label][:3, 3]).norm()
        angle = rotation.angle_between(estimate[:3, :3], poses[label][:3, :3])
        assert 1000 * float(shift) < mm
        assert math.degrees(float(angle)) < deg


@pytest.mark.parametrize("stages", [1, 2])
def test_exact_coordinates_give_the_exact_pose(stages):
    """No half pixel is lost between picture, crop, network, second crop and PnP."""
    model, frame, poses, oracle = scene([(160, 120), (70, 60), (250, 170)])
    for seed in range(3):
        estimates = coordinates.predict(model, frame, jittered(model, frame, poses, seed), stages)
        check(estimates, poses)
        assert (estimates.scores == 1).all()
    assert len(oracle.seen) == 3 * stages


@pytest.mark.parametrize("stages", [1, 2])
def test_crops_that_leave_the_photo(stages):
    model, frame, poses, oracle = scene([(8, 115), (300, 230), (160, 3)])
    check(coordinates.predict(model, frame, jittered(model, frame, poses, 5), stages), poses)
    for crop in oracle.seen[0]:
        assert (crop == 0.5).all(0).any()  # beyond the border it is grey
    for crop in oracle.seen[-1]:
        assert (crop == 0.5).all(0).any()


def test_large_pictures_are_smoothed_without_moving():
    """Crops that shrink three times: the filter that avoids aliasing must not shift anything."""
    model, frame, poses, _ = scene([(480, 400), (900, 500)], size=(960, 1280), distance=0.25)
    check(coordinates.predict(model, frame, jittered(model, frame, poses, 1)), poses)


def test_second_look_is_centred_on_the_projected_object_and_greys_the_rest():
    model, frame, poses, oracle = scene([(120, 100)])
    detections = jittered(model, frame, poses, 3, amount=0.15)
    _, found = coordinates.predict_traced(model, frame, detections)
    (again, solved), corners = found[0], se3.transform(poses[1].float(), model.corners[0])
    tight = box_ops.from_points(camera_ops.project(corners, frame.camera.K))
    torch.testing.assert_close((again.box[:2] + again.box[2:]) / 2, (tight[:2] + tight[2:]) / 2, atol=0.02, rtol=0)
    side = float(again.box[2] - again.box[0])
    assert side == pytest.approx(float(again.box[3] - again.box[1]), abs=1e-3)
    assert side == pytest.approx(0.9 * 1.5 * float((tight[2:] - tight[:2]).max()), rel=1e-3)
    first = box_ops.square(detections.boxes, 1.5)[0]
    assert ((first[:2] + first[2:]) / 2 - (tight[:2] + tight[2:]) / 2).abs().max() > 1  # stage 1 was off

    second = oracle.seen[1][0]
    grey = (second == 0.5).all(0)
    centres = again.box[:2] + (camera_ops.pixel_grid((64, 64)) + 0.5) * side / 64 - 0.5
    _, hit = seen_on_box(centres, poses[1], frame.camera.K, SIZE, CENTRE)
    assert not (grey & hit).any()  # nothing of the object is lost
    assert grey[~hit].float().mean() > 0.5  # most of the rest is
    assert solved.inliers.any()


def test_points_of_the_object_are_told_in_whole_image_pixels():
    model, frame, poses, _ = scene([(160, 120)])
    (found,) = coordinates.correspond(model, frame.image, torch.tensor([1]), torch.tensor([[90.2, 60.7, 230.2, 200.7]]))
    on = found.mask > 0.5
    seen = camera_ops.project(se3.transform(poses[1].float(), found.coordinates[on]), frame.camera.K)
    torch.testing.assert_close(seen, found.pixels[on], atol=5e-3, rtol=0)


def test_nothing_detected_gives_empty_estimates():
    model, frame, _, _ = scene([(160, 120)])
    nothing = Detections(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0))
    estimates = coordinates.predict(model, frame, nothing)
    assert len(estimates) == 0
    assert estimates.cam_from_obj.shape == (0, 4, 4)
    assert estimates.covariance.shape == (0, 6, 6)
    assert estimates.boxes.shape == (0, 4)
    assert estimates.scores.shape == (0,)
    assert estimates.labels.dtype == torch.int64


def test_an_empty_mask_gives_no_pose_and_no_nan():
    model, frame, poses, oracle = scene([(160, 120), (70, 60)])
    oracle.hide = True
    estimates, found = coordinates.predict_traced(model, frame, jittered(model, frame, poses, 0))
    assert len(estimates) == 0
    assert [s.success for _, s in found] == [False, False]
    assert [s.score for _, s in found] == [0.0, 0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_broken_network_gives_no_pose_and_no_nan(value):
    model, frame, poses, _ = scene([(160, 120)])
    h = 32
    everything = coordinates.Output(torch.full((1, 3, h, h), value), torch.zeros(1, h, h), torch.full((1, h, h), 5.0))
    model.forward = lambda crops, labels: everything
    estimates = coordinates.predict(model, frame, jittered(model, frame, poses, 0))
    assert torch.isfinite(estimates.cam_from_obj).all()
    assert torch.isfinite(estimates.scores).all()
    model.forward = lambda crops, labels: everything._replace(error=torch.full((1, h, h), float("nan")))
    assert len(coordinates.predict(model, frame, jittered(model, frame, poses, 0))) == 0


def test_random_weights_give_finite_poses_with_scores_in_range():
    model, frame, poses, _ = scene([(160, 120), (70, 60)])
    del model.forward
    detections = dataclasses.replace(jittered(model, frame, poses, 0), scores=torch.tensor([0.9, 0.1]))
    estimates = coordinates.predict(model, frame, detections)
    assert torch.isfinite(estimates.cam_from_obj).all()
    assert ((estimates.scores >= 0) & (estimates.scores <= 1)).all()


def test_the_score_follows_inliers_and_expected_error():
    model, frame, poses, oracle = scene([(160, 120)])
    detections = jittered(model, frame, poses, 0)

    def spoiled(crops, labels):
        out = oracle(crops, labels)
        wrong = torch.rand(out.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.3
        said = torch.where(
            wrong[:, None], torch.rand(out.coordinates.shape, generator=torch.Generator().manual_seed(1)), out.coordinates
        )
        return coordinates.Output(said, torch.full_like(out.error, math.log(0.1 / 0.9)), out.mask)  # expects an error of 0.1

    model.forward = spoiled
    estimates = coordinates.predict(model, frame, dataclasses.replace(detections, scores=torch.tensor([0.5])))
    check(estimates, poses, mm=2, deg=2)  # RANSAC leaves nearly all of the spoiled third out
    assert float(estimates.scores[0]) == pytest.approx(0.5 * 0.7 * 0.9, abs=0.03)


# ------------------------------------------------------------------------------------------------------------------- bins


def test_bins_say_the_coordinate_between_them():
    """Two neighbouring bins with shares a and 1 - a stand for the point between their centres."""
    centres = bins.bin_centres(9, torch.zeros(1))
    logits = torch.full((1, 3, 9, 1, 1), -30.0)
    logits[0, :, 4], logits[0, :, 5] = math.log(0.7), math.log(0.3)
    said = bins.decode(logits)
    torch.testing.assert_close(said, (0.7 * centres[4] + 0.3 * centres[5]).expand(1, 3, 1, 1))


def test_bins_keep_to_one_of_two_candidates():
    """Where the network hesitates between -0.5 and 0.5, the answer is one of them and not their mean."""
    centres = bins.bin_centres(33, torch.zeros(1))
    x = torch.tensor([0.5, -0.5, 0.5])[:, None]
    density = 0.55 * (-((centres - x) ** 2) / 0.001).exp() + 0.45 * (-((centres + x) ** 2) / 0.001).exp()
    said = bins.decode(density.log()[None, :, :, None, None]).flatten()
    torch.testing.assert_close(said, x.flatten(), atol=1e-3, rtol=0)


def test_bin_loss_is_least_at_the_truth():
    """Cross-entropy: its gradient vanishes where the probabilities are the truth's shares, and its value is their entropy."""
    target = torch.tensor([0.1, -1.0, 1.0])[None, :, None, None]
    place = (target + 1) / 2 * 8
    shares = torch.zeros(1, 3, 9, 1, 1)
    for axis in range(3):
        low = min(int(place[0, axis]), 7)
        shares[0, axis, low] = 1 - (place[0, axis] - low)
        shares[0, axis, low + 1] = place[0, axis] - low
    logits = (shares + 1e-9).log().requires_grad_()
    value = bins.cross_entropy(logits, target).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    entropy = -(shares * (shares + 1e-9).log()).sum() / 3
    torch.testing.assert_close(value.detach(), entropy, atol=1e-5, rtol=0)
    assert gradient.abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
def test_bins_are_read_and_learned_as_written_out(channels_last):
    """Against softmax, mask and sum over all bins, as defined; only pixels that count have a gradient."""
    logits = torch.randn(2, 3, 9, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if channels_last:
        logits = logits.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    logits[0, :, 0, 0, 0] = logits[0, :, 8, 0, 1] = 5.0  # the best bin at either end
    centres = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None, None]
    near = (torch.arange(9)[:, None, None] - logits.argmax(2, keepdim=True)).abs() <= 2
    expected = (logits.masked_fill(~near, -torch.inf).softmax(2) * centres).sum(2)
    torch.testing.assert_close(bins.decode(logits), expected)

    target = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
    shares = (1 - (target.clamp(-1, 1)[:, :, None] - centres).abs() * 4).clamp_min(0)
    dense = -(shares * logits.log_softmax(2)).sum(2).mean(1)
    torch.testing.assert_close(bins.cross_entropy(logits, target), dense)
    where = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(2)) < 0.4
    torch.testing.assert_close(bins.cross_entropy(logits, target, where), dense * where)
    here = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bins.cross_entropy(x, target, where), here)
    (gradient,) = torch.autograd.grad(bins.cross_entropy(here, target, where).sum(), here)
    assert not gradient.permute(0, 3, 4, 1, 2)[~where].any()


@pytest.mark.slow
def test_bins_in_half_precision_are_read_as_their_values_in_full():
    """Also among negative logits, ties and zeros of both signs."""
    logits = torch.randn(2, 3, 8, 5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits[0, :, :, 0] -= 9
    logits[1, :, 2:5, 1] = logits[1, :, :, 1].amax(1, keepdim=True)
    torch.testing.assert_close(bins.decode(logits), bins.decode(logits.float()))


# --------------------------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
@pytest.mark.parametrize("bins", [0, 16])
def test_it_learns_one_batch(bins, monkeypatch):
    """Random start, small widths, 64 px: the coordinates of visible pixels come close, by regression and by bins."""
    from monopose.objects import samples as object_samples
    from monopose.synthesis import samples as crop_samples
    from monopose.synthesis import scene as synth

    objects = {1: box((0.1, 0.07, 0.12), cells=4), 2: box((0.06, 0.06, 0.1), obj_id=2, cells=4)}
    camera = Camera(camera_ops.K_from_fov(math.radians(60), (240, 320)), (240, 320))
    placed = synth.SceneConfig(objects=(1, 1), distractors=(0, 0), distance=(0.4, 0.6))
    samples = object_samples.CropSamples(crop_samples.Source(objects, camera, (), placed), 64, 32, greyed_share=0.0, seed=3)
    batch = torch.utils.data.default_collate([samples[i] for i in range(4)])
    monkeypatch.setattr(unet, "backbone", lambda *_: TinyBackbone((16, 24, 32, 48, 48), nn.BatchNorm2d))
    model = network(*objects.values(), bins=bins).train()
    true = model.normalise(batch["coordinates"], model.index_of(batch["label"]))
    seen = batch["mask_visible"][:, None].expand_as(true)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    history = []
    for _ in range(100 if bins else 40):
        output = model(batch["image"], batch["label"])
        losses = coordinates.loss(model, output, batch)
        history.append(float((output.coordinates.detach() - true)[seen].abs().mean()))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert history[-1] < 0.25 * history[0]


def test_the_contour_corrects_the_distance_where_model_and_mask_are_known():
    _, frame, poses, _ = scene([(160, 120)])
    model = box(SIZE, CENTRE, 1)
    true, grey = poses[1].float(), dataclasses.replace(frame, image=torch.full_like(frame.image, 0.5))
    crop = torch.tensor([100.0, 60.0, 220.0, 180.0])
    K = camera_ops.crop_resize_K(frame.camera.K, crop[None], (48, 48))
    mask = render_masks([model], true[None], K[0], (48, 48)).masks_full[0].float()
    wrong = true.clone()
    wrong[:3, 3] *= 1.07
    empty = torch.zeros(48, 48)
    covariance = torch.diag(torch.tensor([1e-2] * 3 + [1e-5] * 3))  # PnP is sure of the rotation alone
    solved = coordinates.Solved(wrong, covariance, empty > 0, 0.5, True)
    found = coordinates.Correspondences(1, 0, crop, torch.zeros(3, 96, 96), torch.zeros(48, 48, 3), empty, mask, empty, mask)

    def aligned(found, models):
        solutions = [solved]
        coordinates._align([found], solutions, grey, models)
        return solutions[0].cam_from_obj

    assert float((aligned(found, {1: model}) - true)[:3, 3].norm()) < 0.2 * float((wrong - true)[:3, 3].norm())
    assert torch.equal(aligned(found, {}), wrong)
    assert torch.equal(aligned(found._replace(amodal=None), {1: model}), wrong)
