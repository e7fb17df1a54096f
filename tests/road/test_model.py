"""Boxes in 3D from one picture: targets in closed form, the gradient of every loss, learning by heart, mirrors and crops."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from monopose import weights
from monopose.datasets.road import SIZES
from monopose.geometry import boxes3d
from monopose.geometry import camera as camera_ops
from monopose.nets.backbones import backbone
from monopose.road import config as road_config
from monopose.road import inference, pyramid, sampler
from monopose.road import losses as road_losses
from monopose.road import network as road_network
from monopose.types import Camera, Frame
from tiny_networks import TinyBackbone

SIZE = (64, 160)
K = torch.tensor([[130.0, 0.0, 79.5], [0.0, 130.0, 26.0], [0.0, 0.0, 1.0]])
COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.7], [0.8, 0.8, 0.2], [0.2, 0.2, 0.2], [0.1, 0.7, 0.2], [0.8, 0.4, 0.9]])


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    monkeypatch.setattr(pyramid, "backbone", lambda *_: TinyBackbone((12, 24, 32, 48, 48)))


def tiny(**changes):
    own = {"height": SIZE[0], "width": SIZE[1], "pretrained": False, "samples": 64, "focal": 130.0, "channels": 32}
    return road_config.small(("car", "pedestrian", "barrier"), **{**own, **changes})


def network(**changes):
    torch.manual_seed(0)
    return road_network.Model(tiny(**changes))


def drawn(cam_from_obj, lhw, K=K, size=SIZE):
    """A picture of boxes, every face in its own colour, on a grey ground: one ray per pixel."""
    rays = camera_ops.rays(K, size).flatten(0, 1)
    image = torch.where((rays[:, 1] > 0)[:, None], torch.tensor([0.35, 0.35, 0.35]), torch.tensor([0.6, 0.75, 0.9]))
    depth = torch.full((len(rays),), math.inf)
    for pose, size_of in zip(cam_from_obj, lhw, strict=True):
        R, direction = pose[:3, :3], rays @ pose[:3, :3] + 1e-9
        origin = -(R.T @ pose[:3, 3])
        one, other = (-size_of / 2 - origin) / direction, (size_of / 2 - origin) / direction
        near, axis = torch.minimum(one, other).max(-1)
        hit = (near < torch.maximum(one, other).amin(-1)) & (near > 0) & (near < depth)
        face = 2 * axis + (direction.gather(1, axis[:, None])[:, 0] > 0)
        image, depth = torch.where(hit[:, None], COLOURS[face], image), torch.where(hit, near, depth)
    return image.T.unflatten(1, size)


def scene(seed):
    g = torch.Generator().manual_seed(seed)
    lhw = torch.tensor([[4.6, 1.7, 1.95], [0.7, 1.8, 0.7]])
    x = torch.tensor([-3.5, 2.0]) + torch.rand(2, generator=g)
    z = torch.tensor([11.0, 7.0]) + 2 * torch.rand(2, generator=g)
    yaw = torch.rand(2, generator=g) * 2 * math.pi
    pose = boxes3d.from_yaw(torch.stack([x, 1.5 - lhw[:, 1] / 2, z], -1), yaw)
    return {
        "image": drawn(pose, lhw), "K": K, "labels": torch.tensor([0, 1]), "cam_from_obj": pose, "sizes": lhw,
        "velocities": torch.tensor([[3.0, 0.0, 1.0], [math.nan] * 3]), "attributes": torch.tensor([5, -1]),
    }  # fmt: skip


def batch_of(samples):
    batch = {key: [s[key] for s in samples] for key in samples[0]}
    return batch | {"image": torch.stack(batch["image"])}


def nothing():
    none = torch.zeros(0, dtype=torch.long)
    blank = {"image": torch.full((3, *SIZE), 0.5), "K": K, "labels": none, "cam_from_obj": torch.zeros(0, 4, 4)}
    return blank | {"sizes": torch.zeros(0, 3), "velocities": torch.zeros(0, 3), "attributes": none}


# --------------------------------------------------------------------------------------------------------------- targets


def test_sizes_and_their_codes():
    means, stds = (torch.tensor([v[i] for v in SIZES.values()]) for i in (0, 1))
    assert len(means) == 10
    torch.testing.assert_close(road_config.encode_sizes(means, means, stds), torch.zeros(10, 3))
    one_up = means * (stds / means).exp()
    torch.testing.assert_close(road_config.encode_sizes(one_up, means, stds), torch.ones(10, 3), atol=1e-5, rtol=1e-5)
    lhw = means * (1 + 0.4 * (torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) - 0.5))
    torch.testing.assert_close(road_config.decode_sizes(road_config.encode_sizes(lhw, means, stds), means, stds), lhw)
    assert bool(torch.isfinite(road_config.decode_sizes(torch.full((10, 3), 1e6), means, stds)).all())


def test_the_score_of_an_error_in_closed_form():
    error = torch.tensor([0.0, 2**-1.5, 1.0, 2**0.5, 2.0, 2**2.5, 100.0])
    torch.testing.assert_close(road_config.score_target(error), torch.tensor([1.0, 1.0, 0.625, 0.5, 0.375, 0.0, 0.0]))


def test_rays_enter_and_leave_a_box_ahead():
    pose = boxes3d.from_yaw(torch.tensor([[0.0, 0.0, 10.0]]), torch.tensor([math.pi / 2]))  # its length along the view
    pixels = torch.tensor([[[79.5, 26.0], [79.5 + 40.0, 26.0]]])
    enter, leave = boxes3d.thickness(pose, torch.tensor([[4.0, 2.0, 2.0]]), K, pixels)
    assert float(enter[0, 0]) == pytest.approx(8.0, abs=1e-4)
    assert float(leave[0, 0]) == pytest.approx(12.0, abs=1e-4)
    assert float(leave[0, 1]) <= float(enter[0, 1])


def test_the_volume_centre_of_a_box_ahead_is_its_centre():
    pose, lhw = boxes3d.from_yaw(torch.tensor([[0.0, 0.0, 10.0]]), torch.zeros(1)), torch.tensor([[4.0, 2.0, 2.0]])
    boxes = boxes3d.project(pose, lhw, K)
    torch.testing.assert_close(boxes3d.volume_centres(pose, lhw, K, boxes), torch.tensor([[79.5, 26.0]]), atol=1e-3, rtol=0)


def test_the_volume_centre_agrees_with_a_fine_raster():
    """Turned boxes, one of them cut by the picture's edge: counted in steps of a quarter pixel and a tenth of a metre."""
    centre = torch.tensor([[-2.0, 0.5, 9.0], [5.5, 0.7, 9.0]])
    pose, lhw = boxes3d.from_yaw(centre, torch.tensor([0.7, -1.0])), torch.tensor([[4.5, 1.7, 1.9], [4.5, 1.7, 1.9]])
    boxes = boxes3d.project(pose, lhw, K, SIZE)
    assert float(boxes[1, 2]) == SIZE[1]
    found = boxes3d.volume_centres(pose, lhw, K, boxes)
    v, u = torch.meshgrid(torch.arange(0, SIZE[0], 0.25) - 0.375, torch.arange(0, SIZE[1], 0.25) - 0.375, indexing="ij")
    pixels = torch.stack([u, v], -1).flatten(0, 1)
    for i in range(2):
        rays = torch.cat([(pixels - K[:2, 2]) / 130, torch.ones(len(pixels), 1)], -1)
        inverse = torch.linalg.inv(pose[i])
        near, far = float(pose[i, 2, 3]) - 3, float(pose[i, 2, 3]) + 3
        inside = torch.zeros(len(pixels))
        for z in torch.arange(near, far, 0.1):
            local = rays * z @ inverse[:3, :3].T + inverse[:3, 3]
            inside += (local.abs() <= lhw[i] / 2).all(-1)
        expected = (inside[:, None] * pixels).sum(0) / inside.sum()
        assert float((found[i] - expected).abs().max()) < 0.15


def test_what_an_image_does_not_show_is_not_learned():
    model, sample = network(), scene(0)
    behind = boxes3d.from_yaw(torch.tensor([[0.0, 0.0, -8.0], [0.0, 1.0, 400.0], [60.0, 0.0, 8.0]]), torch.zeros(3))
    more = {"cam_from_obj": torch.cat([sample["cam_from_obj"], behind]), "labels": torch.tensor([0, 1, 0, 0, 0])}
    more["sizes"] = torch.cat([sample["sizes"], torch.tensor([[4.0, 1.5, 1.8]] * 3)])
    found = road_losses.box_targets(model, batch_of([{"image": sample["image"], "K": K, **more}]))[0]
    assert found.labels.tolist() == [0, 1]
    assert bool(found.velocity.isnan().all())
    assert found.attribute.tolist() == [-1, -1]
    hidden = batch_of([sample | {"visibility": torch.tensor([0.02, 0.8]), "K": K.double()}])
    assert road_losses.box_targets(model, hidden)[0].labels.tolist() == [1]


def test_a_class_without_attributes_has_none():
    sample = scene(0) | {"labels": torch.tensor([0, 2])}
    assert road_losses.box_targets(network(), batch_of([sample]))[0].attribute.tolist() == [5, 8]


def test_bad_truth_is_named():
    model, sample = network(), scene(0)
    with pytest.raises(ValueError, match=r"labels must be 0 to 2, of car, pedestrian, barrier; got \[0, 7\]"):
        road_losses.box_targets(model, batch_of([sample | {"labels": torch.tensor([0, 7])}]))
    with pytest.raises(ValueError, match="sizes must be length, height, width in metres, all > 0"):
        road_losses.box_targets(model, batch_of([sample | {"sizes": torch.zeros(2, 3)}]))


# --------------------------------------------------------------------------------------------------------- configuration


def test_the_published_sizes():
    basic, later = road_config.basic(), road_config.v2()
    assert basic.strides == (4, 8, 16, 32, 64, 128)
    assert later.strides == basic.head_strides == (8, 16, 32, 64, 128)
    assert basic.ranges == (48.0, 96.0, 192.0, 384.0)
    assert basic.size == (672, 1600)
    assert (basic.heads * basic.points, later.heads * later.points) == (256, 128)
    assert (basic.samples, later.samples) == (512, 128)
    assert road_config.coord_regr().coordinate_weight == 0.25


@pytest.mark.parametrize("preset", [road_config.basic, road_config.v2])
def test_the_published_network_at_a_tenth_of_its_input(preset, monkeypatch):
    monkeypatch.setattr(pyramid, "backbone", backbone)
    torch.manual_seed(0)
    config = preset(height=64, width=160, pretrained=False)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in road_network.Model(config).named_parameters()}
    N, levels = config.heads * config.points, len(config.strides)
    assert sum(name.endswith("conv2.offset.weight") for name in shapes) == 26  # 23 blocks at stride 16, 3 at stride 32
    assert shapes["sampler.offsets.weight"] == (2 * N, 256)
    assert shapes["dense.join.weight"] == (256, 128 * levels, 1, 1)
    assert shapes["dense.key.weight"] == (256, 512, 1, 1)
    assert [shapes[f"dense.towers.0.{i}.weight"][:2] for i in (0, 2, 4)] == [(256, 256), (128, 256), (128, 128)]
    assert shapes["sampler.feed.0.weight"] == (1024, 256)
    assert shapes["point_head.weight"] == (8, 32, 5)
    assert shapes["point_head.feed.0.weight"] == (256, 32)
    assert shapes["object_head.answers.weight"] == (3 + 1 + 2 + 9, 256)
    assert ("head.edges.weight" in shapes) == (preset is road_config.v2)
    assert shapes["head.offsets.weight"][0] == (20 if preset is road_config.v2 else 2)


def test_a_configuration_comes_back_from_json():
    config = tiny(layer="reprojection", ranges=(20.0, 40.0))
    assert weights.build_config(road_config.Config, json.loads(json.dumps(asdict(config)))) == config


def test_bad_configurations_are_named():
    with pytest.raises(ValueError, match="layer must be 'distribution', 'reprojection' or 'direct', got 'magic'"):
        tiny(layer="magic")
    with pytest.raises(ValueError, match="multiples of 32 pixels, got 100 and 160"):
        tiny(height=100)
    with pytest.raises(ValueError, match=r"size_means needs length, height and width in metres of each of Tram, got \(\)"):
        road_config.small(("Tram",))
    with pytest.raises(ValueError, match=r"3 levels, strides \(8, 16, 32\), need 2 ranges"):
        tiny(ranges=(48.0,))
    own = road_config.small(("Tram",), size_means=((15.0, 3.5, 2.6),), size_stds=((2.0, 0.3, 0.2),), pretrained=False)
    assert road_network.Model(own).means.tolist() == [pytest.approx([15.0, 3.5, 2.6])]
    assert bool(road_network.Model(own).allowed.all())


# ---------------------------------------------------------------------------------------------------------------- losses


def test_a_mixture_of_one_is_a_gaussian_with_linear_tails():
    error = torch.tensor([[[0.1, -0.2]], [[30.0, 40.0]]])
    log_sigma = torch.tensor([0.5, 2.0]).log()
    near = (0.2**2 + 0.1**2) / 2 + math.log(0.5 * 2)
    far = 2 * (math.hypot(60, 20) - 1) + math.log(0.5 * 2)
    found = road_losses.mixture_nll(error, torch.zeros(2, 1), log_sigma, 2.0)
    torch.testing.assert_close(found, torch.tensor([near, far]))
    # two components with shares: the likelihoods add up
    both = road_losses.mixture_nll(
        torch.tensor([[[0.1, -0.2], [1.0, 0.0]]]), torch.tensor([[0.25, 0.75]]).log(), log_sigma, 2.0
    )
    expected = -math.log(0.25 * math.exp(-near) + 0.75 * math.exp(-(2 * (2.0 - 1) + math.log(0.5 * 2))))
    assert float(both) == pytest.approx(expected, rel=1e-5)


def test_the_reprojection_likelihood_is_best_at_the_true_deviation_and_leaves_the_pixels_alone():
    pose = boxes3d.from_yaw(torch.tensor([[0.5, 0.2, 10.0]]), torch.tensor([0.3]))
    points3d = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = camera_ops.project(points3d.detach() @ pose[:, :3, :3].mT + pose[:, None, :3, 3], K)
    points2d = (exact + torch.tensor([0.6, -0.8])).requires_grad_()
    weight = torch.full((1, 12, 2), math.sqrt(2)).requires_grad_()  # error of length 1 in two directions: variance 1 / 2
    bounds = torch.tensor([-1e3, -1e3, 1e3, 1e3])
    nll = road_losses.reprojection_nll(points3d, points2d, weight, K[None], pose, bounds)
    nll.sum().backward()
    assert points2d.grad is None
    assert float(points3d.grad.abs().max()) > 0
    # along both axes together the likelihood is stationary; along each alone it is not, as 0.6 is not 0.8
    assert float(weight.grad.sum(-1).abs().max()) < 1e-4
    assert float(weight.grad[0, 0, 0]) < 0 < float(weight.grad[0, 0, 1])


FULL = {
    "coordinate_weight": 2.5, "coordinate_mixture": True, "depth_weight": 1.5, "depth_modes": 4, "box_weight": 0.5,
}  # fmt: skip


def lidar_of(sample):
    """Points on the visible faces of the boxes: where the rays of every third pixel enter them."""
    pixels = camera_ops.pixel_grid(SIZE)[::3, ::3].flatten(0, 1).expand(2, -1, -1)
    enter, leave = boxes3d.thickness(sample["cam_from_obj"], sample["sizes"], K, pixels)
    return camera_ops.unproject(pixels, enter, K)[leave > enter]


@pytest.mark.parametrize("layer", ["distribution", "reprojection", "direct"])
def test_every_loss_reaches_the_network(layer):
    samples = [scene(0), scene(1)]
    batch = batch_of(samples) | {"lidar": [lidar_of(s) for s in samples]}
    model = network(layer=layer, **FULL)
    losses = road_losses.loss(model, model(batch["image"]), batch)
    pose = {
        "distribution": {"pose", "translation", "rotation"}, "reprojection": {"pose"}, "direct": {"centre", "distance", "yaw"},
    }[layer]  # fmt: skip
    points = {"coordinates", "projection"} if layer != "direct" else set()
    common = {"class", "reference", "centerness", "boxes", "size", "score", "velocity", "attribute", "depth"}
    assert set(losses) == pose | points | common
    first = model.encoder.backbone.stages[0][0].weight
    for name, value in losses.items():
        assert bool(torch.isfinite(value)), name
        (gradient,) = torch.autograd.grad(value, first, retain_graph=True)
        assert float(gradient.abs().max()) > 0, name
    torch.stack(list(losses.values())).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []  # what no loss reached would stop training on several machines
    if layer == "distribution":
        pose_only = network(layer=layer)
        (road_losses.loss(pose_only, pose_only(batch["image"]), batch)["pose"]).backward()
        parts = dict(pose_only.named_parameters())
        for name in ("point_head.weight", "sampler.offsets.bias", "object_head.scale.bias", "dense.value.weight"):
            assert float(parts[name].grad.abs().max()) > 0, name
        assert parts["object_head.answers.weight"].grad is None  # sizes learn from sizes


def test_depth_is_learned_at_every_lidar_point_of_a_picture():
    """Also where no object is; a point that is nearer than what is said costs more than one that is right."""
    model = network(**FULL)
    batch = batch_of([nothing(), nothing()])
    output = model(batch["image"])
    pixels = torch.tensor([[20.0, 30.0], [50.0, 40.0], [90.0, 20.0]])
    with torch.no_grad():
        answers = model.depth_head(output.dense, pixels.expand(2, -1, -1))
    best = answers[0, :, :, 1].argmax(-1)
    said = (15 * answers[0, torch.arange(3), best, 0] + 15) * float((K[0, 0] + K[1, 1]) / 2) / model.config.focal

    def loss(*depths):
        lidar = [camera_ops.unproject(pixels[: len(depth)], depth, K) for depth in depths]
        return float(road_losses.loss(model, output, batch | {"lidar": lidar})["depth"].detach())

    assert loss(said, said) < loss(said, said + 30) < loss(said + 30, said + 30)
    assert loss(said, said[:0]) == pytest.approx(loss(said, said), rel=0.2)  # the mean over points, not over pictures


def test_every_object_counts_alike_when_drawn_by_centreness():
    owner = torch.tensor([4, 4, 4, 4, 4, 9])  # five cells see one object, one the other
    central = torch.tensor([0.9, 0.5, 0.4, 0.2, 0.1, 0.3])
    value = torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0, 100.0])
    torch.manual_seed(0)
    means = []
    for _ in range(150):
        rows, share, even = road_losses.draw_even(owner, central, 40)
        assert len(rows) == 40
        assert set(range(6)) <= set(rows.tolist())  # the even half takes every cell once
        for number in (4, 9):
            mine = owner[rows] == number
            assert float(share[mine].sum()) == pytest.approx(1, rel=1e-5)
            assert even[mine].tolist() == pytest.approx([1 / int(mine.sum())] * int(mine.sum()))
        means.append(float((share * value[rows])[owner[rows] == 4].sum()))
    expected = float((central * value)[:5].sum() / central[:5].sum())  # what drawing by centreness alone would give
    assert sum(means) / len(means) == pytest.approx(expected, rel=0.05)
    assert road_losses.draw_even(owner[:0], central[:0], 40)[0].shape == (0,)


def test_pixels_in_two_boxes_share_their_attention():
    """One grid of one pixel, two heads; by hand. Then the gradient of all that is learned."""
    error = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)[None, None, :, None]  # (1, 1, 2, 1, 2)
    log_sigma = torch.tensor([[0.2, -0.1], [0.0, 0.3]], dtype=torch.float64)[None, :, None]
    logits = torch.tensor([0.7, -0.4], dtype=torch.float64)[None, None, :, None]
    one = torch.ones(1, 1, 1, dtype=torch.bool)

    def density(k, weight):
        sigma, e = log_sigma[0, k, 0].exp(), error[0, 0, k, 0]
        return weight * float((-(e / sigma).square().sum() / 2).exp() / sigma.prod())

    first = math.exp(0.7) / (math.exp(0.7) + math.exp(-0.4))
    nll, share = road_losses.shared_mixture_nll(error, log_sigma, logits, one, math.inf)
    assert float(nll) == pytest.approx(-math.log(density(0, first) + density(1, 1 - first)))
    assert share.flatten().tolist() == pytest.approx([first, 1 - first])
    # in the box of a second object that explains the pixel as well, each gets half; in no other box, nothing changes
    both, twice = (
        torch.ones(1, 2, 1, dtype=torch.bool),
        (error.expand(-1, 2, -1, -1, -1), log_sigma, logits.expand(-1, 2, -1, -1)),
    )
    nll2, share2 = road_losses.shared_mixture_nll(*twice, both, math.inf)
    torch.testing.assert_close(nll2, nll)
    torch.testing.assert_close(share2[:, 0], share[:, 0] / 2)
    alone = road_losses.shared_mixture_nll(*twice, torch.tensor([[[True], [False]]]), math.inf)
    torch.testing.assert_close(alone[0], nll)
    assert float(alone[1][0, 1].abs().max()) == 0
    far = road_losses.shared_mixture_nll(100 * error, log_sigma, logits, one, 2.0)[0]
    assert float(far) < float(road_losses.shared_mixture_nll(100 * error, log_sigma, logits, one, math.inf)[0])
    learned = [v.clone().requires_grad_() for v in twice]
    for delta in (math.inf, 2.0):
        assert torch.autograd.gradcheck(lambda e, s, w, d=delta: road_losses.shared_mixture_nll(e, s, w, both, d)[0], learned)


@pytest.mark.parametrize("auxiliary", ["v1", "v2"])
def test_the_published_losses_reach_what_they_should(auxiliary):
    batch = batch_of([scene(0), scene(1), nothing() | {"sizes": torch.zeros(0, 3)}])
    model = network(auxiliary=auxiliary, even_objects=True, size_gradient=True)
    losses = road_losses.loss(model, model(batch["image"]), batch)
    parts = dict(model.named_parameters())

    def reaches(loss, name):
        gradient = torch.autograd.grad(losses[loss], parts[name], retain_graph=True, allow_unused=True)[0]
        return gradient is not None and float(gradient.abs().max()) > 0

    assert all(reaches("projection", name) for name in ("pixel_head.weight", "dense.key.weight", "sampler.query.weight"))
    assert not reaches("projection", "object_head.answers.weight")
    assert reaches("pose", "object_head.answers.weight")  # sizes
    assert reaches("pose", "object_head.scale.weight")
    assert reaches("translation", "point_head.weight")
    assert not reaches("translation", "object_head.answers.weight")
    assert not reaches("translation", "object_head.scale.weight")
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in parts.items() if p.grad is None] == []
    assert float(model.precisions[0]) > 0
    empty = batch_of([nothing()])
    assert float(road_losses.loss(model, model(empty["image"]), empty)["projection"].detach()) == 0


def test_a_network_that_only_finds_learns_nothing_about_poses():
    batch = batch_of([scene(0), scene(1)])
    model = network(layer="direct", poses=False)
    losses = road_losses.loss(model, model(batch["image"]), batch)
    assert set(losses) == {"class", "reference", "centerness", "size", "velocity", "attribute", "nothing"}
    torch.stack(list(losses.values())).sum().backward()
    parts = dict(model.named_parameters())
    assert [name for name, p in parts.items() if p.grad is None] == []
    assert float(parts["object_head.direct.weight"].grad.abs().max()) == 0
    assert float(parts["object_head.answers.weight"].grad[3].abs().max()) == 0  # the score of a pose
    assert float(parts["object_head.answers.weight"].grad[:3].abs().max()) > 0
    with pytest.raises(ValueError, match="has learned to find objects but no poses; start a training from it"):
        inference.predict(model, batch["image"][0], K)


def test_an_image_without_objects_teaches_that_there_are_none():
    model = network(**FULL)
    losses = road_losses.loss(model, model(nothing()["image"][None]), batch_of([nothing()]))
    zero = {k for k, v in losses.items() if float(v.detach()) == 0}
    assert zero >= {"pose", "size", "score", "velocity", "attribute", "reference", "centerness", "boxes", "projection", "depth"}
    assert float(losses["class"].detach()) > 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    mixed = batch_of([nothing(), scene(0)])
    losses = road_losses.loss(model, model(mixed["image"]), mixed)
    assert all(bool(torch.isfinite(v)) for v in losses.values())
    assert float(losses["size"].detach()) > 0


def test_unknown_velocities_and_attributes_teach_nothing():
    model, sample = network(), scene(0)
    unknown = sample | {"velocities": torch.full((2, 3), math.nan), "attributes": torch.tensor([-1, -1])}
    losses = road_losses.loss(model, model(sample["image"][None]), batch_of([unknown]))
    assert float(losses["velocity"].detach()) == float(losses["attribute"].detach()) == 0


def test_velocities_along_the_ray():
    pixel = torch.tensor([[79.5, 20.0], [79.5 + 130.0, 20.0]])  # ahead, and 45 degrees to the right
    v = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    seen = road_network.to_ray(v, pixel, K)
    torch.testing.assert_close(seen, torch.tensor([[0.0, 2.0], [0.0, math.sqrt(2)]]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(road_network.from_ray(seen, pixel, K), v)


# ----------------------------------------------------------------------------------------------- learning and predicting


@pytest.fixture(scope="module")
def trained():
    """Two pictures learned by heart."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pyramid, "backbone", lambda *_: TinyBackbone((12, 24, 32, 48, 48)))
    model, batch = network(), batch_of([scene(0), scene(1)])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    steps = 50
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (i + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * i / steps) + 0.01)
        losses = road_losses.loss(model, model(batch["image"]), batch)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    patch.undo()
    return model.eval()


@pytest.mark.slow
def test_two_pictures_are_learned_by_heart(trained):
    for seed in (0, 1):
        true = scene(seed)
        found = inference.predict(trained, true["image"], K, min_score=0.2)
        for k in range(2):
            row = (found.labels == k).nonzero()[0, 0]  # the best of its class
            assert float((found.cam_from_obj[row] - true["cam_from_obj"][k])[:3, 3].norm()) < 0.7
            turn = boxes3d.yaw_of(found.cam_from_obj[row]) - boxes3d.yaw_of(true["cam_from_obj"][k])
            assert abs(float(boxes3d.wrapped(turn))) < math.radians(25)
            torch.testing.assert_close(found.sizes[row], true["sizes"][k], atol=0.3, rtol=0.1)
            assert float(found.scores[row]) > 0.3
            off = (found.samples[row, :, :3, 3] - found.cam_from_obj[row, :3, 3]).norm(dim=-1)
            spread = float((found.log_weights[row].softmax(0) * off).sum())
            assert 0.01 < spread < 3
            assert bool(found.converged[row])
        car = (found.labels == 0).nonzero()[0, 0]
        assert int(found.attributes[car]) == 5
        torch.testing.assert_close(found.velocities[car], true["velocities"][0], atol=1.5, rtol=0)


def test_where_points_start():
    """On rays around the reference point, the outermost `spread` strides away, whatever the embedding is."""
    model = network(spread=1.5)
    away = model.sampler.offsets.bias.unflatten(0, (-1, 2)).norm(dim=-1) * sampler.SLOW
    assert float(away.max()) == pytest.approx(1.5 * (model.config.points - 0.5) / model.config.points)


@pytest.mark.parametrize("layer", ["distribution", "reprojection"])
def test_an_object_stretches_the_coordinates_of_its_points(layer):
    """Twice the coordinates are an object of half the size in the image: twice as far away. Poses teach the factor."""
    sample = scene(0)
    batch = batch_of([sample])
    plain, model = network(layer=layer).eval(), network(layer=layer, stretch=True).eval()
    model.load_state_dict(plain.state_dict(), strict=False)

    def looked(one):
        output = one(batch["image"])
        cell, labels = torch.tensor([[3, 40]]), torch.tensor([[0, 1]])
        look = one.look(output, cell, labels)
        return look.noc, one.at(output, look, look.pixels[:, :, :5])[0]

    for a, b in zip(looked(plain), looked(model), strict=True):
        torch.testing.assert_close(a, b)  # nothing before it has learned
    nn.init.constant_(model.stretch.bias, math.log(2))
    for a, b in zip(looked(plain), looked(model), strict=True):
        torch.testing.assert_close(2 * a, b)
    road_losses.loss(model, model(batch["image"]), batch)["pose"].backward()
    assert float(model.stretch.weight.grad.abs().max()) > 0
    assert network(layer="direct", stretch=True).stretch is None


def test_objects_are_placed_without_being_found(trained):
    """Told where objects are, the network says of each, in order, where it stands; however sure it is of them."""
    sample = scene(1)
    trained.train()
    boxes, true = inference.predict_at_truth(trained, sample, samples=32)
    assert trained.training
    trained.eval()
    assert torch.equal(true.labels, sample["labels"])
    assert torch.equal(boxes.labels, sample["labels"])
    assert float((boxes.cam_from_obj - true.pose)[:, :3, 3].norm(dim=-1).max()) < 0.7
    turned = {k: v.flip(0) if k not in ("image", "K") else v for k, v in sample.items()}
    other, _ = inference.predict_at_truth(trained, turned, samples=32)
    torch.testing.assert_close(other.cam_from_obj.flip(0), boxes.cam_from_obj, atol=1e-3, rtol=0)
    found = inference.predict(trained, sample["image"], K, min_score=0.2)
    best = torch.stack([found.cam_from_obj[(found.labels == k).nonzero()[0, 0]] for k in (0, 1)])
    assert float((best - boxes.cam_from_obj)[:, :3, 3].norm(dim=-1).max()) < 0.5
    none, nobody = inference.predict_at_truth(trained, nothing(), samples=32)
    assert len(none.labels) == len(nobody.labels) == 0


def test_a_mirrored_picture_gives_mirrored_boxes(trained):
    """With both views at work it is the same two views, so that not the training but the arithmetic decides."""
    image = scene(0)["image"]
    found = inference.predict(trained, image, K, flip=True, min_score=0.1, central=False)
    other = inference.predict(
        trained, image.flip(-1), inference.mirrored_K(K, SIZE[1]), flip=True, min_score=0.1, central=False
    )
    assert len(found.labels) == len(other.labels) > 0
    assert found.points2d.shape[1] == 2 * 4 * 16
    torch.testing.assert_close(found.scores, other.scores, atol=1e-4, rtol=1e-3)
    # points of a network that has hardly learned may have two poses that explain them alike: one of five may take the other
    mirrored = inference.mirrored_pose(other.cam_from_obj)
    same = torch.isclose(mirrored, found.cam_from_obj, atol=2e-3, rtol=1e-3).flatten(1).all(1)
    assert bool(same[0])
    assert int((~same).sum()) <= max(len(same) // 5, 0)
    torch.testing.assert_close(other.sizes, found.sizes, atol=1e-4, rtol=1e-4)
    # the same weight of evidence as one view has: the points of both, each counting less
    once = inference.predict(trained, image, K, min_score=0.1, central=False)
    assert float(found.weights[0].square().sum()) == pytest.approx(float(once.weights[0].square().sum()), rel=0.5)


def test_mirrors_undo_themselves():
    pose = boxes3d.from_yaw(torch.tensor([[1.0, 0.5, 9.0], [-2.0, 0.1, 20.0]]), torch.tensor([0.4, -2.9]))
    torch.testing.assert_close(inference.mirrored_pose(inference.mirrored_pose(pose)), pose)
    # a point to the object's left is to its right in the mirror
    point = torch.tensor([0.3, -0.2, 0.9, 1.0])
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    other = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))
    torch.testing.assert_close(mirror @ pose @ point, inference.mirrored_pose(pose) @ other @ point)


def test_boxes_are_in_the_pixels_and_the_camera_of_the_photo(trained):
    """More sky, and twice the pixels: the network sees the same, and the poses are the same."""
    image = scene(0)["image"]
    found = inference.predict(trained, image, K, min_score=0.2)
    higher = torch.cat([torch.rand(3, 30, SIZE[1]), image], 1)
    moved = K.clone()
    moved[1, 2] += 30
    other = inference.predict(trained, higher, moved, min_score=0.2)
    torch.testing.assert_close(other.cam_from_obj, found.cam_from_obj, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(other.points2d, found.points2d + torch.tensor([0.0, 30.0]), atol=1e-3, rtol=0)
    double = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    camera = Camera(K, SIZE).resized((2 * SIZE[0], 2 * SIZE[1]))
    large = inference.predict(trained, Frame(double, camera), min_score=0.2)
    assert float((large.cam_from_obj[0] - found.cam_from_obj[0]).abs().max()) < 0.3
    torch.testing.assert_close(large.boxes[0], 2 * found.boxes[0], atol=6.0, rtol=0)


def test_fitting_moves_image_and_camera_together():
    g = torch.Generator().manual_seed(0)
    point = torch.tensor([1.0, 0.5, 8.0])
    for size, photo in (((64, 160), (140, 310)), ((64, 160), (30, 250)), ((96, 160), (480, 640))):
        image = torch.rand(3, *photo, generator=g)
        fitted = inference.resize_to_network(image, K, size)
        assert tuple(fitted.image.shape) == (3, *size)
        inside = camera_ops.project(point[None], fitted.K)[0]
        back = (inside + 0.5) / fitted.scale - 0.5 + torch.tensor([0.0, float(fitted.top)])
        torch.testing.assert_close(back, camera_ops.project(point[None], K)[0], atol=1e-3, rtol=0)
    assert bool((fitted.top > 0) == (480 * 160 / 640 > 96))


def test_no_detection_is_an_answer(trained):
    for model in (trained, network(layer="direct").eval()):
        found = inference.predict(model, scene(0)["image"], K, min_score=1.1, samples=32)
        assert len(found.labels) == 0
        shapes = [tuple(v.shape) for v in found[:-1]]
        assert shapes[3:7] == [(0, 4, 4), (0, 3), (0, 4), (0, 3)]
        assert found.samples.shape[:1] == found.log_weights.shape[:1] == (0,)


def test_predictions_repeat_and_leave_the_mode_alone(trained):
    image = scene(1)["image"]
    trained.train()
    a = inference.predict(trained, image, K, samples=32)
    assert trained.training
    b = inference.predict(trained.eval(), image, K, samples=32)
    assert torch.equal(a.samples, b.samples)
    assert a.samples.shape[1] == 32


def test_the_samples_can_judge_the_pose(trained):
    image = scene(0)["image"]
    found = inference.predict(trained, image, K, min_score=0.2, posterior_scores=True)
    off = (found.samples[..., (0, 2), 3] - found.cam_from_obj[:, None, (0, 2), 3]).norm(dim=-1)
    expected = found.class_scores * (found.log_weights.softmax(-1) * road_config.score_target(off)).sum(-1)
    torch.testing.assert_close(found.scores, expected)
    assert bool((found.scores.diff() <= 0).all())


@pytest.mark.parametrize("layer", ["reprojection", "direct"])
def test_the_other_layers_answer_in_the_same_form(layer):
    model = network(layer=layer).eval()
    for flip in (False, True):
        found = inference.predict(model, scene(0)["image"], K, min_score=1e-4, max_candidates=20, flip=flip)
        n = len(found.labels)
        assert n > 0
        assert found.cam_from_obj.shape == (n, 4, 4)
        assert found.samples.shape[0] == found.log_weights.shape[0] == n
        assert bool(torch.isfinite(found.cam_from_obj).all())
        assert bool((found.cam_from_obj[:, 2, 3] > 0).all())


def test_bad_input_is_named(trained):
    image = scene(0)["image"]
    with pytest.raises(ValueError, match="distances need the camera: pass K"):
        inference.predict(trained, image)
    with pytest.raises(ValueError, match=r"K must be \(3, 3\) with positive focal lengths"):
        inference.predict(trained, image, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"an image must be \(3, H, W\), float RGB in \[0, 1\], got \(64, 160, 3\)"):
        inference.predict(trained, image.permute(1, 2, 0), K)
    with pytest.raises(ValueError, match=r"takes images of 160x64 \(width x height\), got 320x64"):
        trained(torch.rand(1, 3, 64, 320))
    bent = Frame(image, replace(Camera(K, SIZE), distortion=torch.tensor([0.1, 0.0, 0.0, 0.0])))
    with pytest.raises(ValueError, match="this camera has lens distortion"):
        inference.predict(trained, bent)


def test_the_distance_of_least_expected_relative_error():
    """Distances whose density in space makes their log normal, of median 3 s^2 beyond the mode: the best by brute force."""
    s, n = 0.25, 20001
    q = (torch.arange(n) + 0.5) / n
    z = 10 * torch.exp(3 * s * s + s * torch.special.ndtri(q.double())).float()
    ray = torch.tensor([0.6, 0.0, 0.8])
    pose = torch.eye(4).repeat(1, n, 1, 1)
    pose[0, :, :3, 3] = z[:, None] * ray
    mode = boxes3d.from_yaw(10 * ray[None], torch.tensor([0.3]))
    none = {k: torch.zeros(1) for k in inference.DetectedBoxes._fields}
    own = {"cam_from_obj": mode, "samples": pose, "log_weights": torch.zeros(1, n), "sizes": torch.ones(1, 3)}
    found = inference.at_median_distance(inference.DetectedBoxes(**{**none, **own}), K, SIZE)
    tried = torch.linspace(9, 14, 501)
    best = tried[torch.stack([(t / z - 1).abs().mean() for t in tried]).argmin()]
    assert float(found.cam_from_obj[0, :3, 3].norm()) == pytest.approx(float(best), abs=0.05)
    torch.testing.assert_close(found.cam_from_obj[:, :3, :3], mode[:, :3, :3])
    torch.testing.assert_close(found.cam_from_obj[0, :3, 3] / found.cam_from_obj[0, :3, 3].norm(), ray)
    torch.testing.assert_close(found.boxes, boxes3d.project(found.cam_from_obj, own["sizes"], K, SIZE))


def test_how_wide_a_distribution_is():
    """Samples along the line of sight, half of them turned around: known deviations."""
    g = torch.Generator().manual_seed(0)
    ray = torch.tensor([0.6, 0.0, 0.8])
    along, across = 2.0 * torch.randn(4000, 1, generator=g), 0.3 * torch.randn(4000, 1, generator=g)
    centre = 10 * ray + along * ray + across * torch.tensor([0.8, 0.0, -0.6])
    yaw = 0.2 * torch.randn(4000, generator=g) + 3.1
    samples = boxes3d.from_yaw(centre, yaw)[None]
    one = torch.zeros(1)
    mode = boxes3d.from_yaw(10 * ray[None], torch.tensor([3.1]))
    none = torch.zeros(1, 0, 3)
    found = inference.DetectedBoxes(
        one.long(), one, one, mode, torch.ones(1, 3), torch.zeros(1, 4), torch.zeros(1, 3), one.long(), samples,
        torch.zeros(1, 4000), none, none, none, one.bool(), {},
    )  # fmt: skip
    torch.testing.assert_close(inference.pose_std(found), torch.tensor([[0.3, 2.0, 0.2]]), atol=0.02, rtol=0.03)
    far = torch.where(torch.arange(4000) < 2000, 0.0, -40.0)[None]  # those that have no weight do not count
    half = inference.pose_std(found._replace(log_weights=far))
    torch.testing.assert_close(half, torch.tensor([[0.3, 2.0, 0.2]]), atol=0.02, rtol=0.05)
    alone = found._replace(samples=mode[:, None], log_weights=torch.zeros(1, 1))
    assert bool(inference.pose_std(alone).isnan().all())


def test_the_score_map_is_bright_where_objects_are(trained):
    sample = scene(0)
    image = torch.cat([torch.full((3, 40, SIZE[1]), 0.5), sample["image"]], 1)  # sky, which the network does not see
    K = sample["K"].clone()
    K[1, 2] += 40
    scores = inference.score_map(trained, image, K)
    assert scores.shape == (3, 13, 20)
    assert float(scores[:, :5].max()) == 0
    centre = camera_ops.project(sample["cam_from_obj"][:, :3, 3], K, 0.1)
    for label, (u, v) in zip(sample["labels"].tolist(), centre.tolist(), strict=True):
        row, column = int((v + 0.5) // 8), int((u + 0.5) // 8)
        near = scores[label, row - 1 : row + 2, max(column - 1, 0) : column + 2]
        assert float(near.max()) > 0.3
        assert float(scores[label].median()) < 0.05
