"""The viewpoint networks and their method: published shapes, samples that stay apart, targets, offsets, losses."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monopose import weights
from monopose.geometry import viewpoints
from monopose.viewpoint import model as viewpoint
from monopose.viewpoint.networks import ApartNet, CombinedNet, ModernNet, SeparateNet

SMALL = {
    "combined": {"widths": (8, 12, 12, 8)},
    "separate": {"widths": (8, 12, 8)},
    "modern": {"pretrained": False, "backbone": "resnet18"},
}


def small(net, inputs="normals", side=64, **changes):
    preset = getattr(viewpoint, net)(("bed", "chair"), inputs, side)
    return dataclasses.replace(preset, **{**SMALL[net], **changes})


def shapes_of(net, images):
    """Side after every convolution and every pooling, in order."""
    sides = []
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            module.register_forward_hook(lambda m, x, y: sides.append(y.shape[-1]))
    net.eval()(images)
    return sides


# --------------------------------------------------------------------------------------------------------------- networks


def test_combined_net_has_the_published_shapes():
    net = CombinedNet(8, 24)
    assert shapes_of(net, torch.zeros(1, 8, 224, 224)) == [218, 109, 103, 51, 49, 24, 22, 11]
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.padding[0]) for m in convolutions] == [
        (8, 64, 7, 0), (64, 256, 7, 0), (256, 256, 3, 0), (256, 8, 3, 0),
    ]  # fmt: skip
    assert [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)] == [(968, 128), (128, 24)]
    kinds = [type(m).__name__ for m in net.trunk[0]]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]


def test_separate_net_has_the_published_shapes():
    net = SeparateNet((3, 1, 1, 3), 24)
    assert shapes_of(net, torch.zeros(1, 8, 224, 224)) == [218, 109, 103, 51, 49, 24] * 4
    convolutions = [m for m in net.branches[3].modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in convolutions] == [(3, 32, 7), (32, 64, 7), (64, 8, 3)]
    assert [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)] == [(4608, 128)] * 4 + [
        (512, 24)
    ]


@pytest.mark.parametrize(
    "build, least", [(lambda s: CombinedNet(3, 24, size=s), 58), (lambda s: SeparateNet((3,), 24, size=s), 34)]
)
def test_smallest_crop(build, least):
    with pytest.raises(ValueError, match=f"at least {least} pixels a side, got {least - 1}"):
        build(least - 1)
    assert build(least).eval()(torch.zeros(2, 3, least, least)).shape == (2, 24)


def joined_as_published(net, images):
    """The defect of the original: flattened tensors of all branches in a row, then cut into rows for the samples."""
    parts = images.split(net.groups, 1)
    flat = torch.cat([branch(part).flatten() for branch, part in zip(net.branches, parts)])
    return net.heads(flat.reshape(len(images), -1))


@pytest.mark.parametrize("net", ["combined", "separate", "modern"])
def test_a_sample_does_not_depend_on_its_neighbours(net):
    torch.manual_seed(0)
    model = viewpoint.Model(small(net)).eval()
    images = torch.rand(4, 8, 64, 64)
    with torch.no_grad():
        together, alone = model(images).logits, torch.cat([model(image[None]).logits for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_published_join_mixes_samples():
    torch.manual_seed(0)
    net = SeparateNet((3, 1), 24, (8, 8, 8), size=34).eval()
    images = torch.rand(4, 4, 34, 34)
    with torch.no_grad():
        mixed, ours = joined_as_published(net, images), net(images)
        alone = torch.cat([joined_as_published(net, image[None]) for image in images])
    torch.testing.assert_close(alone, ours)  # one sample at a time, the join is the same
    assert (mixed - alone).abs().max() > 0.01


@pytest.mark.parametrize("net", ["combined", "separate", "modern"])
def test_logits_may_be_negative(net):
    torch.manual_seed(0)
    model = viewpoint.Model(small(net)).eval()
    last = [head[-1] for head in model.net.heads] if net == "modern" else [model.net.heads]
    with torch.no_grad():
        for layer in last:
            layer.bias.fill_(-5.0)
        assert model.net(torch.rand(2, 8, 64, 64)).max() < 0


@pytest.mark.parametrize("kind", [ModernNet, ApartNet])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenet_v3_large", "convnext_tiny"])
def test_the_modern_network_sees_every_channel_and_where_things_are(name, kind):
    torch.manual_seed(0)
    net = kind(8, 24, name, False).eval()
    crop = torch.rand(1, 8, 64, 64, requires_grad=True)
    net(crop).square().sum().backward()
    assert (crop.grad.abs().amax((0, 2, 3)) > 0).all()
    with torch.no_grad():
        away = net(crop.flip(-1)) - net(crop)
    assert away.abs().max() > 1e-4  # an average over the crop would hardly notice
    with pytest.raises(ValueError, match="at least 3 channels"):
        ModernNet(2, 24, name, False)


def test_two_branches_learn_apart():
    """A loss of one opinion does not reach the other's weights; the answer is the weighted mean of both."""
    torch.manual_seed(0)
    model = viewpoint.Model(small("modern", apart=True)).train()
    assert isinstance(model.net, ApartNet)
    images, angles = torch.rand(4, 8, 64, 64), viewpoints.wrapped(torch.rand(4, 3))
    output = model(images)
    assert len(output.branch_outputs) == 2
    part = viewpoint.loss(model, output.branch_outputs[0], {"angles": angles})
    sum(part.values()).backward()
    blind = {n for n, p in model.named_parameters() if p.grad is None}
    assert blind == {n for n, _ in model.named_parameters() if n.startswith(("net.small", "net.mix.1", "net.heads.1"))}
    whole = viewpoint.loss(model, output, {"angles": angles})
    other = viewpoint.loss(model, output.branch_outputs[1], {"angles": angles})
    for name in whole:
        torch.testing.assert_close(whole[name], part[name] + other[name])
    model.eval()
    with torch.no_grad():
        answer, (colours, all_) = model(images), model.net.branch_outputs(images)
    assert answer.branch_outputs == ()
    torch.testing.assert_close(model.net(images), ApartNet.COLOURS * colours + (1 - ApartNet.COLOURS) * all_)
    assert isinstance(viewpoint.Model(small("modern", "rgb", apart=True)).net, ModernNet)  # nothing to judge apart
    with pytest.raises(ValueError, match="more than 3 channels"):
        ApartNet(3, 24, "resnet18", False)


def test_with_colours_alone_both_parts_of_the_modern_network_see_them():
    net = ModernNet(3, 24, "resnet18", False).eval()
    seen = []
    net.backbone.register_forward_hook(lambda m, x, y: seen.append(x[0].shape[1]))
    net.shape.register_forward_hook(lambda m, x, y: seen.append(x[0].shape[1]))
    net(torch.rand(1, 3, 58, 58))
    assert sorted(seen) == [3, 3]


# ---------------------------------------------------------------------------------------------------- targets and reading

angle = st.floats(-10, 10, allow_nan=False)
elevation = st.floats(-1.5, 1.5)
SOFT = viewpoint.Config(concentration=8.0)
HALVED = viewpoint.modern()


@settings(max_examples=30)
@given(angle, elevation, angle)
def test_smoothed_targets_are_distributions_that_peak_at_the_true_bin(a, e, i):
    angles = torch.tensor([[a, e, i]], dtype=torch.float64)
    for config in (SOFT, viewpoint.Config(concentration=0.0), viewpoint.combined()):
        wanted = viewpoint.targets(config, angles)
        torch.testing.assert_close(wanted.sum(-1), torch.ones(1, 3, dtype=torch.float64))
        hard = torch.stack([b.index(x) for b, x in zip(viewpoint.BINS[config.bins], angles.unbind(-1))], -1)
        peak = wanted.gather(-1, hard[..., None])[..., 0]
        torch.testing.assert_close(peak, wanted.amax(-1))


@settings(max_examples=30)
@given(angle, elevation, angle)
def test_circular_targets_turn_with_the_angle_and_flip_with_the_picture(a, e, i):
    angles = torch.tensor([[a, e, i]], dtype=torch.float64)
    wanted = viewpoint.targets(SOFT, angles)
    step = torch.tensor([[math.pi / 4, 0.0, math.pi / 4]], dtype=torch.float64)
    rolled = viewpoint.targets(SOFT, angles + step)
    torch.testing.assert_close(rolled[:, [0, 2]], wanted[:, [0, 2]].roll(1, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(rolled[:, 1], wanted[:, 1])
    flipped = viewpoint.targets(SOFT, viewpoints.mirrored(angles))
    back = -torch.arange(8) % 8  # bin 1, around 45 degrees, is bin 7, around 315, in the flipped picture
    torch.testing.assert_close(flipped[:, [0, 2]], wanted[:, [0, 2]][..., back], atol=1e-6, rtol=0)


def test_smoothed_targets_in_closed_form():
    wanted = viewpoint.targets(SOFT, torch.zeros(1, 3, dtype=torch.float64))
    raw = torch.tensor([math.exp(8 * math.cos(k * math.pi / 4)) for k in range(8)], dtype=torch.float64)
    torch.testing.assert_close(wanted[0, 0], raw / raw.sum())
    edge = viewpoint.targets(SOFT, torch.tensor([[math.pi / 8, 0.0, 0.0]]))[0, 0]
    assert edge[0] == pytest.approx(float(edge[1]), abs=1e-6)  # an angle on an edge belongs to both
    far = viewpoint.targets(SOFT, torch.tensor([[0.0, math.radians(85), 0.0], [0.0, math.radians(65), 0.0]]))
    torch.testing.assert_close(far[0, 1], far[1, 1])  # beyond the last bin is like the middle of the last bin


def perfect(config, angles):
    """What a network should say of these angles."""
    bins = viewpoint.BINS[config.bins]
    logits = viewpoint.targets(config, angles).clamp_min(1e-30).log()
    every = torch.arange(8)
    offsets = torch.stack([b.offset(a[:, None], every) for b, a in zip(bins, angles.unbind(-1))], 1)
    halves = halves_of(config, angles) if config.halves else None
    return viewpoint.Output(logits, offsets if config.offsets else None, halves)


def halves_of(config, angles):
    """Logits of half bins that are sure of the true one."""
    index = torch.stack([b.index(a) for b, a in zip(viewpoint.HALVES, viewpoints.wrapped(angles).unbind(-1))], -1)
    return 30.0 * nn.functional.one_hot(index, 16).to(angles)


@settings(max_examples=30)
@given(st.floats(0, 6.28), elevation, st.floats(-3.14, 3.14))
def test_perfect_outputs_are_read_as_the_truth(a, e, i):
    angles = torch.tensor([[a, e, i]], dtype=torch.float64)
    found = viewpoint.decode(SOFT, perfect(SOFT, angles))
    away = torch.remainder(found.angles - angles + math.pi, 2 * math.pi) - math.pi
    assert away.abs().max() < 1e-5
    held = viewpoint.decode(HALVED, perfect(HALVED, angles))
    away = torch.remainder(held.angles - angles + math.pi, 2 * math.pi) - math.pi
    assert away.abs().max() < 1.1e-3  # a thousandth of a bin from an edge
    published = viewpoint.combined()
    found = viewpoint.decode(published, perfect(published, angles))
    middles = torch.stack([b.centre(n) for b, n in zip(viewpoints.PUBLISHED, found.bins.unbind(-1))], -1)
    torch.testing.assert_close(found.angles.double(), viewpoints.wrapped(middles.double()), atol=1e-5, rtol=0)
    away = torch.remainder(found.angles - angles + math.pi, 2 * math.pi) - math.pi
    assert away[:, [0, 2]].abs().max() < math.pi / 8 + 1e-5  # no further than half a bin


@settings(max_examples=30)
@given(st.floats(0, 6.28), st.floats(-0.1, 1.1), st.floats(-3.14, 3.14))
def test_neighbours_vote_where_there_are_no_offsets(a, e, i):
    config = dataclasses.replace(SOFT, offsets=False)
    angles = torch.tensor([[a, e, i]], dtype=torch.float64)
    found = viewpoint.decode(config, perfect(config, angles))
    away = torch.remainder(found.angles - angles + math.pi, 2 * math.pi) - math.pi
    assert away[0, 0].abs() < math.radians(8)  # the middle of the bin would be up to 22.5 degrees off
    assert away[0, 2].abs() < math.radians(8)
    assert away[0, 1].abs() < math.radians(4)  # of 5


def test_the_loss_is_least_for_perfect_outputs():
    torch.manual_seed(0)
    model = viewpoint.Model(small("modern"))
    angles = viewpoints.wrapped(torch.rand(6, 3) * 3 - 1)
    output, batch = perfect(SOFT, angles), {"angles": angles}
    best = viewpoint.loss(model, output, batch)
    assert list(best) == ["azimuth", "elevation", "inplane", "offset"]
    assert best["offset"] < 1e-9
    p = viewpoint.targets(SOFT, angles)
    entropy = -(p * p.clamp_min(1e-30).log()).sum(-1).mean(0)
    torch.testing.assert_close(torch.stack([best[name] for name in viewpoint.ANGLES]), entropy)
    worse = viewpoint.loss(model, viewpoint.Output(output.logits + torch.randn(6, 3, 8), output.offsets + 0.1), batch)
    assert all(worse[name] > best[name] for name in best)


def test_both_kinds_of_bins_are_sums_of_the_same_halves():
    spread = torch.linspace(-10, 10, 996, dtype=torch.float64)  # none on an edge
    angles = viewpoints.wrapped(torch.stack([spread, 0.5 + 0.06 * spread, spread], -1))  # elevations from -6 to 63 degrees
    half = torch.stack([b.index(x) for b, x in zip(viewpoint.HALVES, angles.unbind(-1))], -1)
    assert all(len(half[:, k].unique()) >= 14 for k in range(3))
    for name, bins in viewpoint.BINS.items():
        whole = torch.stack([b.index(x) for b, x in zip(bins, angles.unbind(-1))], -1)
        for k in range(3):
            assert viewpoint._parts(name)[k, whole[:, k], half[:, k]].all()
        assert (viewpoint._parts(name).sum(-2) == 1).all()  # every half is part of one bin
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 16, dtype=torch.float64)
    for name in viewpoint.BINS:
        said = viewpoint.bin_log_probabilities(logits, name)
        torch.testing.assert_close(said.exp().sum(-1), torch.ones(4, 3, dtype=torch.float64))
    p = logits.softmax(-1)
    assert viewpoint.bin_log_probabilities(logits, "published")[0, 0, 0].exp() == pytest.approx(
        float(p[0, 0, 1] + p[0, 0, 2])
    )  # 0 to 45
    assert viewpoint.bin_log_probabilities(logits, "centred")[0, 0, 0].exp() == pytest.approx(float(p[0, 0, 0] + p[0, 0, 1]))
    assert viewpoint.bin_log_probabilities(logits, "published")[0, 0, 7].exp() == pytest.approx(float(p[0, 0, 15] + p[0, 0, 0]))


def test_an_angle_does_not_leave_the_published_bin_that_is_most_probable():
    """Offsets say 2 degrees, on one side of the edge; the halves say that it is the other side, or a far one."""
    offsets = torch.zeros(3, 3, 8)
    offsets[:, 0, 0] = 2 / 45
    halves = torch.full((3, 3, 16), -20.0)
    halves[:, 1, 4] = halves[:, 2, 0] = 0
    halves[0, 0, 0], halves[0, 0, 1] = math.log(0.6), math.log(0.4)  # -22.5 to 0, 0 to 22.5
    halves[1, 0, 0], halves[1, 0, 1] = math.log(0.4), math.log(0.6)
    halves[2, 0, :2], halves[2, 0, 3], halves[2, 0, 4] = math.log(0.3), math.log(0.1), math.log(0.3)  # 45 to 67.5 to 90
    output = viewpoint.Output(viewpoint.bin_log_probabilities(halves, "centred"), offsets, halves)
    found = viewpoint.decode(HALVED, output)
    assert found.bins[:, 0].tolist() == [0, 0, 0]
    azimuth = torch.rad2deg(found.angles[:, 0])
    assert azimuth.tolist() == pytest.approx([359.955, 2.0, 89.955], abs=1e-3)
    assert torch.rad2deg(found.angles[:, 2]).tolist() == pytest.approx([-0.045] * 3, abs=1e-3)  # -22.5 to 0
    before = viewpoint.decode(HALVED, output._replace(halves=None))
    assert torch.rad2deg(before.angles[:, 0]).tolist() == pytest.approx([2.0, 2.0, 2.0], abs=1e-4)


def test_half_bins_learn_the_published_bins():
    model = viewpoint.Model(small("modern"))
    angles = viewpoints.wrapped(torch.rand(5, 3) * 6)
    raw = torch.randn(5, 3, 16, requires_grad=True)
    output = viewpoint.Output(viewpoint.bin_log_probabilities(raw, "centred"), torch.zeros(5, 3, 8), raw)
    losses = viewpoint.loss(model, output, {"angles": angles})
    said, wanted = viewpoint.bin_log_probabilities(raw, "published"), viewpoint.targets(viewpoint.combined(), angles)
    torch.testing.assert_close(losses["published"], -(wanted * said).sum((1, 2)).mean())
    sum(losses.values()).backward()
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad.abs().amax((0, 2)) > 0).all()


def test_runs_from_before_the_half_bins_load(tmp_path):
    """Their configuration names neither half bins nor parts that answer apart, and their networks have none."""
    torch.manual_seed(0)
    model = viewpoint.Model(small("modern", halves=False, apart=False)).eval()
    said = {k: v for k, v in dataclasses.asdict(model.config).items() if k not in ("halves", "apart", "mirror")}
    assert isinstance(model.net, ModernNet)
    again = viewpoint.Model(weights.build_config(viewpoint.Config, said)).eval()
    again.load_state_dict(model.state_dict())
    images = torch.rand(2, 8, 64, 64)
    with torch.no_grad():
        assert again(images).halves is None
        torch.testing.assert_close(again(images).logits, model(images).logits)
        assert viewpoint.Model(small("modern")).eval()(images).halves.shape == (2, 3, 16)


def test_hard_labels_are_plain_cross_entropy():
    model = viewpoint.Model(small("combined"))
    logits, angles = torch.randn(5, 3, 8), viewpoints.wrapped(torch.rand(5, 3) * 6)
    losses = viewpoint.loss(model, viewpoint.Output(logits, None), {"angles": angles})
    index = torch.stack([b.index(a) for b, a in zip(viewpoints.PUBLISHED, angles.unbind(-1))], -1)
    for k, name in enumerate(viewpoint.ANGLES):
        torch.testing.assert_close(losses[name], nn.functional.cross_entropy(logits[:, k], index[:, k]))


# --------------------------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
@pytest.mark.parametrize("net, inputs", [("combined", "normals"), ("separate", "boundaries"), ("modern", "normals")])
def test_every_preset_learns_eight_crops_by_heart(net, inputs):
    torch.manual_seed(0)
    model = viewpoint.Model(small(net, inputs, 32 if net == "modern" else 58, dropout=0.0))
    images = torch.rand(8, 8, model.config.input_size, model.config.input_size)
    angles = viewpoints.wrapped(torch.linspace(0, 6, 8)[:, None] * torch.tensor([1.0, 0.15, 1.0]))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40 if net == "modern" else 25):
        output = model(images)
        total = sum(viewpoint.loss(model, output, {"angles": angles}).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    untouched = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not untouched
    truth = torch.stack([b.index(a) for b, a in zip(model.bins, angles.unbind(-1))], -1)
    said = viewpoint.decode(model.config, model(images))
    assert (said.bins == truth).float().mean() > 0.9


def test_weights_come_back_whole(tmp_path):
    torch.manual_seed(0)
    model = viewpoint.Model(small("separate", "mask")).eval()
    path = weights.save(tmp_path / "viewpoint.safetensors", model.state_dict(), method="viewpoint", config=model.config)
    checkpoint = weights.read(path)
    config = weights.build_config(viewpoint.Config, checkpoint.config)
    assert config == model.config
    again = viewpoint.Model(config).eval()
    weights.load_into(again, checkpoint)
    images = torch.rand(3, 4, 64, 64)
    first, second = viewpoint.predict(model, images), viewpoint.predict(again, images, chunk=2)
    assert first.probabilities.shape == (3, 3, 8)
    torch.testing.assert_close(first.angles, second.angles)


def test_levels_of_input_are_all_that_is_looked_at():
    torch.manual_seed(0)
    images, others = torch.rand(2, 8, 64, 64), torch.rand(2, 8, 64, 64)
    for inputs, count in (("rgb", 3), ("mask", 4), ("boundaries", 5), ("normals", 8)):
        model = viewpoint.Model(small("separate", inputs)).eval()
        assert model.channels == count
        mixed = torch.cat([images[:, :count], others[:, count:]], 1)
        torch.testing.assert_close(model(mixed).logits, model(images).logits)
        cut = images.clone()
        cut[:, count - 1] = 0
        assert (model(cut).logits - model(images).logits).abs().max() > 0


def test_published_schedule():
    config = viewpoint.combined()
    rates = [viewpoint.rate(config, epoch / 25) for epoch in range(7)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])
    assert viewpoint.rate(config, 1.0) == pytest.approx(1e-8)
    assert (viewpoint.published_lr(config), viewpoint.published_lr(viewpoint.separate())) == (1e-5, 1e-3)
    modern = [viewpoint.rate(viewpoint.modern(), p) for p in (0.0, 0.5, 1.0)]
    assert modern == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(
    "changes, message",
    [({"inputs": "depth"}, "inputs must be one of rgb"), ({"bins": "own"}, "bins must be one of"),
     ({"net": "vgg"}, "net must be"), ({"concentration": -1.0}, "concentration must be 0 or more"),
     ({"widths": (8, 8)}, "expected 3 widths")],
)  # fmt: skip
def test_configurations_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        viewpoint.Model(dataclasses.replace(small("separate"), **changes))


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 8, 65, 65), (8, 64, 64)])
def test_crops_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"expected crops \(B, 8 or more, 64, 64\)"):
        viewpoint.Model(small("combined"))(torch.zeros(shape))


@pytest.mark.parametrize(
    "config", [{}, {"halves": True}, {"halves": True, "apart": True}, {"bins": "published", "offsets": False}]
)
def test_a_mirrored_crop_gets_the_mirrored_answer(config):
    """By construction, whatever the weights are, once both are looked at; and the mean is the answer's own mean."""
    torch.manual_seed(0)
    model = viewpoint.Model(small("modern", mirror=True, **config)).eval()
    image = torch.rand(4, 8, 64, 64)
    there = image.flip(-1).clone()
    there[:, 5] = 1 - there[:, 5]
    with torch.no_grad():
        one, other = viewpoint.forward_mirrored(model, image), viewpoint.forward_mirrored(model, there)
        back = viewpoint._mirrored(other, model.bins)
    for a, b in zip(one, back, strict=True):
        assert (a is None) == (b is None) or a == b
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one.logits, other.logits, atol=1e-3)
    plain = viewpoint.Model(dataclasses.replace(model.config, mirror=False)).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(viewpoint.forward_mirrored(plain, image).logits, plain(image).logits)


def test_the_mirror_turns_the_right_angles():
    """A crop at azimuth 50, in-plane 10 degrees is in the mirror one at azimuth 310, -10: in every kind of bins."""
    for bins in (viewpoint.BINS["centred"], viewpoint.BINS["published"], viewpoint.HALVES):
        angles = torch.tensor([[50.0, 20.0, 10.0], [133.0, 4.0, -44.0]]).deg2rad().double()
        logits = torch.stack(
            [torch.nn.functional.one_hot(b.index(angles[:, k]), b.count) for k, b in enumerate(bins)], 1
        ).float()
        found = viewpoint._mirrored(viewpoint.Output(logits, None), bins).logits.argmax(-1)
        expected = torch.stack([b.index(viewpoints.mirrored(angles)[:, k]) for k, b in enumerate(bins)], 1)
        assert torch.equal(found, expected)
