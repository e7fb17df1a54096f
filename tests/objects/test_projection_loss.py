"""The projection loss: what PnP on the said coordinates does to the corners, and what the network learns from it."""

import pytest
import torch

from monopose.geometry import camera, rotation, se3
from monopose.geometry import camera as camera_ops
from monopose.objects import coordinates
from monopose.objects.bins import bin_centres
from monopose.types import Symmetries
from shapes import box, half_turn, seen_on_box

SIZE, SIDE, HALF = (0.08, 0.06, 0.1), 64, 32
K = torch.tensor([[250.0, 0.0, 31.5], [0.0, 250.0, 31.5], [0.0, 0.0, 1.0]])


def network(symmetries=None, bins=0, **changes):
    torch.manual_seed(0)
    config = coordinates.Config(
        (1,), backbone="resnet18", pretrained=False, input_size=SIDE, output_size=HALF, widths=(16, 16, 16, 16), bins=bins,
        **{"projection_weight": 1.0, **changes},
    )  # fmt: skip
    return coordinates.Model(config, {1: box(SIZE, symmetries=symmetries)})


def pose(omega=(0.7, -0.4, 0.3), t=(0.01, -0.01, 0.5)):
    return se3.from_rt(rotation.so3_exp(torch.tensor(omega)), torch.tensor(t))


def seen(poses):
    """A batch of crops that look at the box under these poses, (B, 4, 4)."""
    pixels = camera.pixels(torch.tensor([[0.0, 0.0, SIDE, SIDE]]), HALF)[0]
    both = [seen_on_box(pixels, p, K, SIZE) for p in poses]
    xyz = torch.stack([torch.where(hit[..., None], points, 0.0).permute(2, 0, 1) for points, hit in both]).float()
    hit = torch.stack([hit for _, hit in both])
    count = len(poses)
    return {
        "image": torch.rand(count, 3, SIDE, SIDE), "label": torch.ones(count, dtype=torch.long), "coordinates": xyz,
        "mask_full": hit, "mask_visible": hit, "cam_from_obj": poses, "K": K.expand(count, 3, 3),
    }  # fmt: skip


def says(model, metres):
    """An output of these coordinates, (B, 3, h, w) metres; all its parts are leaves that want a gradient."""
    said = model.normalise(metres, torch.zeros(len(metres), dtype=torch.long))
    flat = torch.zeros_like(said[:, 0])
    return coordinates.Output(*(v.clone().requires_grad_() for v in (said, flat, flat)))


def moved(batch, obj_from_obj):
    """Coordinates that a network says which believes in the poses T S of a batch with the poses T."""
    metres = se3.transform(se3.inverse(obj_from_obj), batch["coordinates"].flatten(2).mT)
    return torch.where(batch["mask_full"][:, None], metres.mT.unflatten(2, (HALF, HALF)), 0.0)


def test_true_coordinates_cost_nothing():
    model, batch = network(), seen(torch.stack([pose(), pose((-0.3, 1.2, 0.4))]))
    torch.testing.assert_close(coordinates.projection_loss(model, says(model, batch["coordinates"]), batch), torch.zeros(2))


def test_value_in_closed_form():
    """Coordinates of the pose T D cost what the corners under T D and under T are apart."""
    model, batch = network(), seen(pose()[None])
    shift = pose((0.05, 0.02, -0.04), (0.002, -0.001, 0.003))
    value = coordinates.projection_loss(model, says(model, moved(batch, shift)), batch)
    corners = model.corners[0]
    here, there = (camera_ops.project(se3.transform(p, corners), K) for p in (pose() @ shift, pose()))
    d, delta = (here - there).abs() / SIDE, coordinates.PROJECTION_DELTA
    huber = torch.where(d < delta, 0.5 * d**2, delta * (d - delta / 2)) / delta
    assert float(huber.max()) > 0
    torch.testing.assert_close(value, huber.sum(-1).mean()[None], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_is_that_of_moving_the_coordinates():
    model, batch = network(), seen(pose()[None])
    output = says(model, moved(batch, pose((0.06, 0.02, -0.04), (0.002, -0.001, 0.003))))
    direction = batch["coordinates"].flip(1) * 10  # smooth, so that the difference is no sum of roundings

    def value(step):
        torch.manual_seed(5)  # the same pixels are drawn
        return coordinates.projection_loss(model, output._replace(coordinates=output.coordinates + step * direction), batch)[0]

    (gradient,) = torch.autograd.grad(value(0.0), output.coordinates)
    h = 1e-2
    difference = (value(h) - value(-h)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference.detach()), rel=0.03)
    assert bool((gradient[~batch["mask_visible"][:, None].expand_as(gradient)] == 0).all())


def test_the_gradient_reaches_coordinates_error_and_mask():
    model, batch = network(), seen(pose()[None])
    wrong = moved(batch, pose((0.05, 0.02, -0.04), (0.002, -0.001, 0.003)))
    noise = 0.004 * torch.randn(wrong.shape, generator=torch.Generator().manual_seed(2))  # else the weights would not matter
    output = says(model, wrong + noise * batch["mask_full"][:, None])
    coordinates.projection_loss(model, output, batch).sum().backward()
    for part in output[:3]:
        assert bool(torch.isfinite(part.grad).all())
        assert float(part.grad.abs().sum()) > 0


def test_the_gradient_reaches_the_bins():
    model, batch = network(bins=16), seen(pose()[None])
    wrong = model.normalise(moved(batch, pose((0.05, 0.02, -0.04), (0.002, -0.001, 0.003))), torch.tensor([0]))
    logits = -((bin_centres(16, wrong)[:, None, None] - wrong[:, :, None]) ** 2) / 0.01
    logits.requires_grad_()
    flat = torch.zeros_like(wrong[:, 0])
    output = coordinates.Output(coordinates.decode(logits), flat, flat, logits)
    coordinates.projection_loss(model, output, batch).sum().backward()
    assert bool(torch.isfinite(logits.grad).all())
    assert float(logits.grad.abs().sum()) > 0


def test_the_gradient_reaches_the_network():
    model, batch = network(bins=8), seen(torch.stack([pose(), pose((-0.3, 1.2, 0.4))]))
    output = model(batch["image"], batch["label"])
    said = says(model, batch["coordinates"]).coordinates.detach() * 1.02 + 0.1 * output.coordinates
    coordinates.projection_loss(model, output._replace(coordinates=said), batch).sum().backward()
    assert float(model.net.head.weight.grad[0, 2:].abs().sum()) > 0  # coordinates
    assert float(model.net.head.weight.grad[0, 0].abs().sum()) > 0  # expected error
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("ugly", ["nan", "one point", "hidden"])
def test_a_failed_crop_contributes_nothing(ugly):
    model, batch = network(), seen(torch.stack([pose(), pose((-0.3, 1.2, 0.4))]))
    metres = moved(batch, pose((0.05, 0.02, -0.04), (0.002, -0.001, 0.003)).expand(2, 4, 4))
    alone = says(model, metres[1:])
    rows = {k: v[1:] for k, v in batch.items()}
    torch.manual_seed(3)
    torch.rand(1, HALF * HALF)  # what the first crop draws
    expected = coordinates.projection_loss(model, alone, rows)
    expected.sum().backward()
    if ugly == "nan":
        metres[0] = torch.nan
    elif ugly == "one point":
        metres[0] = 0.01
    else:
        batch["mask_visible"] = batch["mask_visible"].clone()
        batch["mask_visible"][0] = False
        batch["mask_visible"][0, 14, 10:20] = True  # fewer than PROJECTION_LEAST
    both = says(model, metres)
    torch.manual_seed(3)
    value = coordinates.projection_loss(model, both, batch)
    value.sum().backward()
    assert float(value[0].detach()) == 0
    torch.testing.assert_close(value[1:], expected)
    for part, lone in zip(both[:3], alone[:3], strict=True):
        assert bool((part.grad[0] == 0).all())
        torch.testing.assert_close(part.grad[1:], lone.grad)


def test_any_symmetric_pose_is_right():
    turn = half_turn(2)
    model = network(Symmetries(discrete=turn[None]))
    batch = seen(pose()[None])
    symmetric = says(model, moved(batch, turn[None]))
    torch.testing.assert_close(coordinates.projection_loss(model, symmetric, batch), torch.zeros(1))
    wrong = says(model, moved(batch, turn @ pose((0.05, 0.02, -0.04), (0.002, -0.001, 0.003))[None]))
    value = coordinates.projection_loss(model, wrong, batch)
    assert 1e-3 < float(value.detach()) < 0.5
    value.sum().backward()
    assert float(wrong.coordinates.grad.abs().sum()) > 0


def test_off_changes_nothing():
    on, off = network(), network(projection_weight=0.0)
    batch = seen(torch.stack([pose(), pose((-0.3, 1.2, 0.4))]))
    output = says(off, moved(batch, pose((0.05, 0.02, -0.04), (0.002, -0.001, 0.003)).expand(2, 4, 4)))
    torch.manual_seed(7)
    without = coordinates.loss(off, output, batch)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    torch.testing.assert_close(torch.rand(3), drawn, rtol=0, atol=0)  # no random number was used up
    assert "projection" not in without
    early = coordinates.loss(on, output, {**batch, "progress": torch.tensor(0.0)})
    assert without.keys() == early.keys()
    assert all(torch.equal(without[k], early[k]) for k in without)


def test_it_sets_in_when_the_training_is_under_way():
    model, batch = network(projection_start=0.4), seen(pose()[None])
    output = says(model, moved(batch, pose((0.05, 0.02, -0.04), (0.002, -0.001, 0.003))[None]))

    def at(progress):
        more = {} if progress is None else {"progress": torch.tensor(progress)}
        return coordinates.loss(model, output, batch | more).get("projection")

    full = at(None)
    assert at(0.39) is None
    torch.testing.assert_close(at(0.4 + coordinates.PROJECTION_RAMP / 2), full / 2, rtol=1e-3, atol=0)
    torch.testing.assert_close(at(1.0), full, rtol=1e-3, atol=0)
