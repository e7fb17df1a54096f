"""The probabilistic network: weights, the gradient of each loss, learning by heart, poses with a covariance."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from monopose import pnp, weights
from monopose.datasets.bop import writing
from monopose.geometry import boxes as box_ops
from monopose.geometry import camera, se3
from monopose.geometry import camera as camera_ops
from monopose.nets import unet
from monopose.objects import coordinates, pipeline, probabilistic, training
from monopose.objects import samples as object_samples
from monopose.synthesis import samples as crop_samples
from monopose.synthesis import scene
from monopose.training import warm_start
from monopose.types import Camera, Detections, Frame, Symmetries
from shapes import box, half_turn, seen_on_box
from tiny_networks import TinyBackbone

CAMERA = Camera(camera_ops.K_from_fov(math.radians(60), (240, 320)), (240, 320))
PLAIN = box((0.1, 0.07, 0.12), cells=4)
SYMMETRIC = box((0.06, 0.06, 0.1), obj_id=2, cells=4, symmetries=Symmetries(discrete=half_turn(2)[None]))
OBJECTS = {1: PLAIN, 2: SYMMETRIC}
TINY = {"pretrained": False, "input_size": 64, "samples": 64, "points": 256}


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    monkeypatch.setattr(unet, "backbone", lambda *_: TinyBackbone((8, 16, 24, 32, 32), nn.BatchNorm2d))


def config(preset="unet", ids=(1, 2), **changes):
    chosen = training.METHODS["probabilistic"].presets[preset](ids)
    own = {"output_size": 16, "deconv_width": 32} if chosen.deconv_width else {"output_size": 32, "widths": (16, 16, 16, 16)}
    return dataclasses.replace(chosen, **{**TINY, **own, **changes})


def network(settings, objects=OBJECTS):
    torch.manual_seed(0)
    return probabilistic.Model(settings, objects)


def batch_of(settings, count=3, objects=OBJECTS):
    placed = scene.SceneConfig(objects=(1, 1), distractors=(0, 0), distance=(0.4, 0.6))
    source = crop_samples.Source(objects, CAMERA, (), placed)
    samples = object_samples.CropSamples(source, settings.input_size, settings.output_size, greyed_share=0.0, seed=3)
    return torch.utils.data.default_collate([samples[i] for i in range(count)])


def says_the_truth(model, batch, sharpness=400.0):
    """An output with the true coordinates, weights on the object only, and that sum of weights."""
    index = model.index_of(batch["label"])
    full = batch["mask_full"].float()
    truth = model.normalise(batch["coordinates"], index) * full[:, None]
    logits = torch.where(batch["mask_full"], 0.0, -30.0)[:, None].expand(-1, 2, -1, -1).clone()
    return probabilistic.Output(truth, logits, torch.full((len(index), 2), sharpness))


def learnable(output):
    return output._replace(
        coordinates=output.coordinates.clone().requires_grad_(),
        logits=output.logits.clone().requires_grad_(),
        scale=output.scale.clone().requires_grad_(),
    )


# ---------------------------------------------------------------------------------------------------------- correspondences


def test_the_weights_sum_to_the_scale_and_follow_the_photo():
    """v2: a softmax times the scale per grid pixel, so that a pixel of the photo counts by the size of the grid's."""
    settings = config(ids=(1,))
    model, n = network(settings), 32 * 32
    g = torch.Generator().manual_seed(0)
    output = probabilistic.Output(
        torch.randn(1, 3, 32, 32, generator=g), torch.randn(1, 2, 32, 32, generator=g), torch.tensor([[3.0, 5.0]])
    )
    boxes = torch.tensor([[10.0, 20.0, 138.0, 148.0]])
    chosen = torch.arange(0, n, 4)[None]
    drawn = probabilistic.correspond(model, output, torch.tensor([0]), boxes, chosen)
    torch.testing.assert_close(drawn.weights.sum(1), output.scale)
    e = output.logits[0, 0].flatten()[::4].exp()
    torch.testing.assert_close(drawn.weights[0, :, 0], 3 * e / e.sum())
    # all pixels: as much information, the sum of squares, as the drawn ones are expected to have
    whole = probabilistic.correspond(model, output, torch.tensor([0]), boxes)
    e = output.logits[0, 0].flatten().exp()
    expected = 9 * (e**2).mean() / e.mean() ** 2 / settings.points
    assert float((whole.weights[0, :, 0] ** 2).sum()) == pytest.approx(float(expected), rel=1e-5)
    # v1 in closed form: exp(logit - mean - log N) times the scale per photo pixel, and 128 / 32 photo pixels to a grid pixel
    legacy = network(config(ids=(1,), legacy_weights=True))
    old = probabilistic.correspond(legacy, output, torch.tensor([0]), boxes, chosen)
    v = output.logits[0, 1].flatten()[::4]
    torch.testing.assert_close(old.weights[0, :, 1], (v - v.mean()).exp() / len(v) * 5 * 4)


def test_correspondences_of_the_truth_give_the_pose():
    settings = config(ids=(1,))
    model, batch = network(settings, {1: PLAIN}), batch_of(config(ids=(1,)), 2, {1: PLAIN})
    output = says_the_truth(model, batch)
    given = probabilistic.correspond(model, output, torch.tensor([0, 0]), batch["box"])
    K = probabilistic.grid_K(batch["K"], 64, 32)
    found = pnp.solve(given.points3d, given.points2d, K, given.weights)
    torch.testing.assert_close(found.cam_from_obj, batch["cam_from_obj"], atol=2e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------------------- the losses


def test_the_truth_costs_less_than_errors_and_being_sure_of_the_truth_pays():
    settings = config(ids=(1,), coordinate_weight=0.0)
    model, batch = network(settings, {1: PLAIN}).eval(), batch_of(settings, 2, {1: PLAIN})

    def losses(output):
        torch.manual_seed(1)
        return probabilistic.loss(model, output, batch)

    def unscaled(output):  # the norm is that of the output here: the model has not learned yet
        return float(losses(output)["monte_carlo"] * output.scale.mean())

    truth = says_the_truth(model, batch)
    wrong = truth._replace(coordinates=truth.coordinates * torch.tensor([1.0, -1.0, 1.0])[:, None, None])
    for name in ("translation", "rotation"):
        assert float(losses(truth)[name]) < 1e-4 < float(losses(wrong)[name])
    assert unscaled(truth) < unscaled(wrong)
    surer = truth._replace(scale=2 * truth.scale)
    # the posterior of twice the weight is half as wide in all six directions: log 2 each
    assert unscaled(truth) - unscaled(surer) == pytest.approx(settings.monte_carlo_weight * 6 * math.log(2), rel=0.15)
    assert unscaled(wrong._replace(scale=2 * wrong.scale)) > unscaled(wrong)  # being sure of an error costs


@pytest.mark.parametrize("name", ["monte_carlo", "translation", "rotation", "coordinates"])
def test_each_loss_reaches_what_it_should(name):
    """Pose losses teach coordinates and weights of the drawn pixels; the pose alone cannot teach how sure to be."""
    settings = config(bins=0)
    model, batch = network(settings), batch_of(settings, 2)
    model.norm.fill_(1.0)
    noisy = says_the_truth(model, batch)
    noise = 0.1 * torch.randn(noisy.coordinates.shape, generator=torch.Generator().manual_seed(0))
    output = learnable(noisy._replace(coordinates=noisy.coordinates + noise))
    value = probabilistic.loss(model, output, batch)[name]
    found = torch.autograd.grad(value, [output.coordinates, output.logits, output.scale], allow_unused=True)
    by_coordinates, by_logits, by_scale = (torch.zeros(1) if g is None else g for g in found)
    assert all(bool(torch.isfinite(g).all()) for g in (by_coordinates, by_logits, by_scale))
    assert float(by_coordinates.abs().max()) > 0
    if name == "coordinates":
        assert not bool(by_coordinates.any(1)[~batch["mask_full"]].any())
        assert not bool(by_logits.any())
        assert not bool(by_scale.any())
        return
    assert float(by_logits.abs().max()) > 0
    touched = by_coordinates.abs().amax(1).flatten(1) > 0
    assert int(touched.sum(1).max()) <= settings.points
    turned_up = (by_scale * output.scale).detach()
    if name == "monte_carlo":
        assert float(turned_up.sum(1).abs().min()) > 0.1
    else:  # turning up the weights of u and v together leaves the optimal pose
        assert float(turned_up.sum(1).abs().max()) < 0.05 * float(turned_up.abs().max())


def test_every_parameter_learns():
    for preset in ("unet", "reg"):
        settings = config(preset)
        model, batch = network(settings), batch_of(settings, 3)
        nn.init.normal_(model.weight_head.weight, std=0.1)  # it starts at zero, which would hide what lies before it
        nn.init.normal_(model.weight_scale.weight, std=0.1)
        losses = probabilistic.loss(model, model(batch["image"], batch["label"]), batch)
        sum(losses.values()).backward()
        without = [k for k, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
        assert without == []
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_equivalent_truths_cost_the_same():
    settings = config(ids=(2,), bins=0)
    model = network(settings, {2: SYMMETRIC}).eval()
    batch = batch_of(settings, 2, {2: SYMMETRIC})
    turn = SYMMETRIC.symmetries.discrete[0]
    points = se3.transform(se3.inverse(turn), batch["coordinates"].flatten(2).mT).mT.reshape_as(batch["coordinates"])
    other = batch | {"cam_from_obj": batch["cam_from_obj"] @ turn, "coordinates": points * batch["mask_full"][:, None]}
    assert float((other["cam_from_obj"] - batch["cam_from_obj"]).abs().max()) > 0.5
    noisy = says_the_truth(model, batch, 50.0)
    noisy = noisy._replace(coordinates=noisy.coordinates + 0.1 * torch.randn_like(noisy.coordinates))
    outputs = [learnable(noisy) for _ in range(2)]
    values = []
    for output, truth in zip(outputs, (batch, other), strict=True):
        torch.manual_seed(5)
        losses = probabilistic.loss(model, output, truth)
        sum(losses.values()).backward()
        values.append(losses)
    for name, value in values[0].items():
        torch.testing.assert_close(value, values[1][name], atol=1e-4, rtol=1e-3)
    scale = float(outputs[0].coordinates.grad.abs().max())
    torch.testing.assert_close(outputs[0].coordinates.grad, outputs[1].coordinates.grad, atol=1e-2 * scale, rtol=1e-2)


def test_what_fails_leaves_the_others_alone():
    settings = config(bins=0, coordinate_weight=0.0)
    model, batch = network(settings), batch_of(settings, 3)
    model.norm.fill_(1.0)
    truth = says_the_truth(model, batch)
    coordinates_ = truth.coordinates + 0.05 * torch.randn(truth.coordinates.shape, generator=torch.Generator().manual_seed(0))
    coordinates_[1] = torch.nan
    output = learnable(truth._replace(coordinates=coordinates_))
    losses = probabilistic.loss(model, output, batch)
    sum(losses.values()).backward()
    for grad in (output.coordinates.grad, output.logits.grad, output.scale.grad):
        assert not bool(grad[1].any())
        assert bool(grad[0].any())
        assert bool(grad[2].any())
        assert bool(torch.isfinite(grad).all())


def test_poses_alone_are_enough():
    """no-model: neither coordinates nor masks of the CAD model are looked at."""
    settings = config("no-model")
    model, batch = network(settings), batch_of(settings, 2)
    only = {k: batch[k] for k in ("image", "label", "cam_from_obj", "K", "box")}
    losses = probabilistic.loss(model, model(only["image"], only["label"]), only)
    assert set(losses) == {"monte_carlo", "translation", "rotation"}


# ----------------------------------------------------------------------------------------------------------------- learning


def overfit(settings, steps, lr, count=3):
    """Medians of (translation error in box diagonals, angle in radians) before and after learning `count` crops by heart."""
    model, batch = network(settings).train(), batch_of(settings, count)
    optimiser = torch.optim.AdamW(model.parameters(), lr)

    def errors():
        with torch.no_grad():
            output = model(batch["image"], batch["label"])
            index = model.index_of(batch["label"])
            given = probabilistic.correspond(model, output, index, batch["box"])
            K = probabilistic.grid_K(batch["K"], settings.input_size, settings.output_size)
            found = pnp.sample_posterior(
                *given[:2], K, given.weights, robust=pnp.AdaptiveHuber(0.1), samples=64,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            group = model.group[index]
            move, turn = pnp.derivative_loss(found.mode, batch["cam_from_obj"], 1e-6, group)
            return float(move.median()) / 0.15, float((1 - turn).clamp(-1, 1).acos().median())

    before = errors()
    for step in range(steps):
        for rates in optimiser.param_groups:
            rates["lr"] = lr * (1 - step / steps)
        losses = probabilistic.loss(model, model(batch["image"], batch["label"]), batch)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
    return before, errors()


@pytest.mark.parametrize("preset", ["unet", "basic", "reg", "coord-init", "no-model"])
def test_each_preset_learns_a_few_crops_by_heart(preset):
    before, after = overfit(config(preset, bins=0), steps=200 if preset == "no-model" else 120, lr=5e-3)
    assert before[1] > 0.3
    assert after[1] < 0.25
    assert after[0] < 0.5


# --------------------------------------------------------------------------------------------------------------- prediction


def oracle(model, monkeypatch, pose, count=1, shift=0.0, scale=300.0):
    """A photo whose crops the network understands perfectly; boxes are `shift` of their size too far to the right.

    Returns the frame, the detections and a list that will hold the boxes of the crops that were looked at.
    """
    looked = []

    def cut(image, boxes, side):
        looked.append(boxes)
        return torch.full((len(boxes), 3, side, side), 0.5)

    def forward(images, labels):
        points, hit = seen_on_box(camera.pixels(looked[-1], model.config.output_size), pose, CAMERA.K, (0.1, 0.07, 0.12))
        said = model.normalise(points.float().permute(0, 3, 1, 2), model.index_of(labels)) * hit[:, None]
        logits = torch.where(hit, 0.0, -30.0)[:, None].expand(-1, 2, -1, -1)
        return probabilistic.Output(said, logits, torch.full((len(labels), 2), scale))

    monkeypatch.setattr(camera, "cut", cut)
    monkeypatch.setattr(model, "forward", forward)
    box_ = box_ops.from_points(camera_ops.project(se3.transform(pose, PLAIN.vertices), CAMERA.K))
    boxes = (box_ + shift * (box_[2] - box_[0]) * torch.tensor([1.0, 0, 1, 0])).expand(count, 4)
    detections = Detections(torch.full((count,), 1), boxes, torch.linspace(0.8, 0.4, count))
    return Frame(torch.full((3, 240, 320), 0.5), CAMERA), detections, looked


POSE = se3.exp(torch.tensor([0.05, -0.02, 0.5, 0.4, -0.7, 0.2]))


def test_predict_finds_the_pose_and_says_how_sure_it_is(monkeypatch):
    model = network(config(ids=(1,)), {1: PLAIN}).eval()
    frame, detections, looked = oracle(model, monkeypatch, POSE, 2)
    poses, believed = probabilistic.predict_traced(model, frame, detections, stages=1)
    assert len(looked) == 1  # both objects at once
    assert poses.labels.tolist() == [1, 1]
    torch.testing.assert_close(poses.cam_from_obj, POSE.expand(2, 4, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(poses.scores, detections.scores, atol=1e-3, rtol=0)  # certain
    assert set(poses.seconds) == {"network", "pnp"}
    again = probabilistic.predict(model, frame, detections, stages=1, samples=512)
    assert torch.equal(poses.cam_from_obj, again.cam_from_obj)
    assert torch.equal(poses.covariance, again.covariance)
    # the covariance is that of least squares with these weights
    output = model.forward(None, detections.labels)
    given = probabilistic.correspond(model, output, torch.tensor([0, 0]), looked[0])
    K = camera_ops.crop_resize_K(CAMERA.K, looked[0], (32, 32))
    least = pnp.solve(given.points3d, given.points2d, K, given.weights, robust=pnp.AdaptiveHuber(0.1))
    ratio = poses.covariance.diagonal(dim1=1, dim2=2) / least.covariance.diagonal(dim1=1, dim2=2)
    assert 0.5 < float(ratio.min()) < float(ratio.max()) < 2.0
    assert [b.detection for b in believed] == [0, 1]
    assert believed[0].samples.shape == (512, 4, 4)  # enough for pictures
    torch.testing.assert_close(believed[0].bounds, PLAIN.bounds)
    nothing = probabilistic.predict(model, frame, detections[torch.zeros(0, dtype=torch.long)])
    assert len(nothing) == 0


def test_the_second_look_is_centred_on_the_object(monkeypatch):
    model = network(config(ids=(1,)), {1: PLAIN}).eval()
    frame, detections, looked = oracle(model, monkeypatch, POSE, shift=0.25)
    poses = probabilistic.predict(model, frame, detections, stages=2)
    torch.testing.assert_close(poses.cam_from_obj[0], POSE, atol=1e-3, rtol=0)
    corners = camera_ops.project(se3.transform(POSE, PLAIN.corners), CAMERA.K)
    centre = (corners.amin(0) + corners.amax(0)) / 2 + 0.5
    first, second = ((b[0, :2] + b[0, 2:]) / 2 - centre for b in looked)
    assert float(first.norm()) > 20
    assert float(second.norm()) < 1


def test_a_vague_network_is_not_sure(monkeypatch):
    model = network(config(ids=(1,)), {1: PLAIN}).eval()
    frame, detections, _ = oracle(model, monkeypatch, POSE, scale=3.0)
    poses = probabilistic.predict(model, frame, detections)
    assert float(poses.scores[0]) < 0.4
    assert float(poses.covariance[0, 2, 2].sqrt()) > 0.01


@pytest.mark.usefixtures("no_base")
def test_a_run_saves_loads_predicts_and_is_taken_before_its_coordinates(tmp_path):
    settings = config()
    model = network(settings)
    model.norm.fill_(7.0)
    weights.save(
        tmp_path / "probabilistic.safetensors", model.state_dict(), method="probabilistic", config=settings, labels=(1, 2)
    )
    writing.write_models(tmp_path / "objects", OBJECTS)
    loaded = pipeline.load(tmp_path, "cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.estimator.state_dict()[name]), name
    frame = Frame(torch.rand(3, 240, 320, generator=torch.Generator().manual_seed(0)), CAMERA)
    detections = Detections(torch.tensor([2, 1]), torch.tensor([[10.0, 10, 90, 90], [100, 50, 200, 180]]), torch.ones(2))
    poses, trace = loaded.predict_traced(frame, detections)
    assert [b.label for b in trace.posteriors] == [2, 1]
    assert trace.correspondences == []
    assert loaded.predict(frame, detections, debug=tmp_path / "debug").labels.tolist() == poses.labels.tolist()
    assert set(poses.labels.tolist()) <= {1, 2}
    assert len(list((tmp_path / "debug").glob("2_object_*.png"))) == 2
    other = coordinates.Config((1, 2), pretrained=False, input_size=64, output_size=32, widths=(16, 16, 16, 16))
    weights.save(
        tmp_path / "coordinates.safetensors", coordinates.Model(other, OBJECTS).state_dict(), method="coordinates",
        config=other, labels=(1, 2),
    )  # fmt: skip
    assert isinstance(pipeline.load(tmp_path, "cpu").estimator, probabilistic.Model)
    plain = pipeline.load(tmp_path / "coordinates.safetensors", "cpu")
    assert isinstance(plain.estimator, coordinates.Model)
    _, trace = plain.predict_traced(frame, detections)
    assert ([found.label for found, _ in trace.correspondences], trace.posteriors) == ([2, 1], [])


def test_the_command_line_draws_posteriors(tmp_path, capsys):
    from PIL import Image

    from monopose import cli

    settings = config(ids=(1,))
    state = network(settings, {1: PLAIN}).state_dict()
    weights.save(tmp_path / "run" / "probabilistic.safetensors", state, method="probabilistic", config=settings, labels=(1,))
    writing.write_models(tmp_path / "run" / "objects", {1: PLAIN})
    Image.new("RGB", (160, 120), (90, 120, 60)).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "photo.png"), "--model", str(tmp_path / "run"), "--fov", "60", "--device", "cpu"]
    words += ["--boxes", "1:20,20,100,100", "--out", str(tmp_path / "out"), "--posterior"]
    assert cli.main(words) == 0
    with Image.open(tmp_path / "out" / "posterior" / "photo" / "object_1_0.png") as picture:
        assert picture.width >= 1000
    assert cli.main(["predict", "--bop", "x", "--model", "y", "--out", "a_b-test.csv", "--posterior"]) == 2
    assert "goes with a SOURCE" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------- training


def test_training_starts_from_coordinates_resumes_and_ends_in_a_run(tmp_path):
    writing.write_models(tmp_path / "data" / "models", OBJECTS)
    shape = {"pretrained": False, "input_size": 64, "output_size": 32, "widths": (16, 16, 16, 16)}
    first = coordinates.Config((1, 2), **shape)
    torch.manual_seed(3)
    source = coordinates.Model(first, OBJECTS)
    file = weights.save(
        tmp_path / "coordinates.safetensors", source.state_dict(), method="coordinates", config=first, labels=(1, 2)
    )
    common = {"batch_size": 2, "workers": 0}
    settings = config(ids=(1, 2), samples=16)

    def run(steps, **changes):
        return training.train(
            "probabilistic", tmp_path / "data", tmp_path / "run", config=training.TrainConfig(steps=steps, **common),
            method_config=settings, progress_bar=False, **changes,
        )  # fmt: skip

    model = network(settings)
    warm_start.start_from(model, file)
    said = model.net.head.weight.shape[1]  # coordinates may say more, after what this network says too
    torch.testing.assert_close(model.net.head.weight, source.net.head.weight[:, :said])
    torch.testing.assert_close(model.net.which.weight, source.net.which.weight)
    assert float(model.weight_scale.bias[0]) == settings.initial_scale
    run(1, init=file)
    result = run(3)
    checkpoint = weights.read(result)
    assert checkpoint.notes["steps"] == "3"
    assert float(checkpoint.state["norm"]) > 0
    assert json.loads((tmp_path / "run" / "probabilistic.json").read_text())["config"]["samples"] == 16
    assert isinstance(pipeline.load(tmp_path / "run", "cpu").estimator, probabilistic.Model)
