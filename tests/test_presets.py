"""Every preset of every method: its configuration, its network, one step of learning, and back from its file.

Networks have their full size, the pictures that the step is learned from are smaller; with MONOPOSE_TEST_FULL=1 they are not,
which takes a minute of a core and some gigabytes for each preset of roads.
"""

import dataclasses
import math
import os

import pytest
import torch

from monopose import weights
from monopose.category import model as category_model
from monopose.category import samples as category_samples
from monopose.category import training as category_training
from monopose.geometry import camera as camera_ops
from monopose.objects import training as objects_training
from monopose.road import config as road_config
from monopose.road import losses as road_losses
from monopose.road import network as road_network
from monopose.road import training as road_training
from monopose.road.samples import DrawnSamples
from monopose.synthesis import road_scene
from monopose.synthesis import samples as crop_samples
from monopose.synthesis import scene as synth
from monopose.training import loop
from monopose.training.loop import TrainConfig
from monopose.types import Camera
from monopose.viewpoint import model as viewpoint_model
from monopose.viewpoint import training as viewpoint_training
from shapes import box

CAMERA = Camera(camera_ops.K_from_fov(math.radians(60), (240, 320)), (240, 320))
OBJECTS = {1: box(), 2: box((0.05, 0.05, 0.1), obj_id=2)}
OF_OBJECTS = [(method, preset) for method, entry in objects_training.METHODS.items() for preset in entry.presets]
FULL = bool(os.environ.get("MONOPOSE_TEST_FULL"))
SMALLER = {
    "height": 64,
    "width": 160,
    "samples": 16,
    "objects": 4,
    "backbone": "resnet50",
}  # of whole roads, for the step alone
ONCE = {"train_outer": 1, "train_inner": 2}  # of a refiner's iterations, which are all alike
HALVED = {"input_size": 128, "samples": 64, "image_height": 240, "image_width": 320, "window_size": 192, "crop_size": 96}


def halved(config):
    """The same network, which learns its step from smaller pictures."""
    least = {} if FULL else {k: v for k, v in HALVED.items() if getattr(config, k, 0) > v}
    if "input_size" in least and hasattr(config, "output_size"):
        least["output_size"] = config.output_size * least["input_size"] // config.input_size
    return dataclasses.replace(config, **least)


def learn_a_step(recipe, model, batch):
    """A forward and a backward pass; every number stays finite."""
    output = model.train()(*(batch[key] for key in recipe.inputs))
    losses = recipe.loss(model, output, batch | {"progress": torch.tensor(1.0)})
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert bool(torch.isfinite(total))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert any(bool(g.any()) for g in gradients)


def comes_back(tmp_path, name, model, config, labels=()):
    """Saved and loaded it is the same network; what served training alone stays behind."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("discriminator")}
    weights.save(tmp_path / f"{name}.safetensors", state, method=name, config=config, labels=labels)
    loaded = weights.load_network(tmp_path / f"{name}.safetensors", name, type(config), type(model))
    training = {k: v for k, v in {"pretrained": False, "adversarial_weight": 0.0}.items() if hasattr(config, k)}
    assert loaded.config == dataclasses.replace(config, **training)
    assert loaded.state_dict().keys() == state.keys()
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, state[key], msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "preset"), OF_OBJECTS)
def test_presets_of_known_objects(method, preset, tmp_path):
    entry = objects_training.METHODS[method]
    torch.manual_seed(0)
    config = objects_training.make_config(method, (1, 2), preset, {"pretrained": False} if preset != "pix2pose" else {})
    placed = synth.SceneConfig(objects=(1, 2), distractors=(0, 0), distance=(0.4, 0.6))
    if method == "refiner" and not FULL:
        config = dataclasses.replace(config, **ONCE)
    config = halved(config)
    source = crop_samples.Source(OBJECTS, CAMERA, (), placed)
    samples = entry.samples(config, source, 2, 3)
    model = entry.model(config, OBJECTS)
    if preset == "maskrcnn" and not FULL:
        model.net.net.roi_heads.fg_bg_sampler.batch_size_per_image = 16  # boxes, of 512
    batch = (entry.recipe.collate or torch.utils.data.default_collate)([samples[i] for i in range(2)])
    if entry.recipe.discriminator is not None and getattr(model, "discriminator", None) is not None:
        entry.recipe.discriminator(model, model(*(batch[key] for key in entry.recipe.inputs)), batch).backward()
        model.zero_grad()
    learn_a_step(entry.recipe, model, batch)
    comes_back(tmp_path, method, model, config, (1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("preset", road_config.PRESETS)
def test_presets_of_roads(preset, tmp_path):
    torch.manual_seed(0)
    full = road_training.make_config("road", preset, changes={"pretrained": False})
    with torch.device("meta"):
        assert sum(p.numel() for p in road_network.Model(full).parameters()) > 5e5
    config = dataclasses.replace(full, **({} if preset == "small" or FULL else SMALLER))
    drawn = road_scene.RoadSamples(road_scene.RoadConfig(size=config.size), (), 0, 0, 1)
    batch = road_training.RECIPE.collate([DrawnSamples(drawn, config.classes)[0]])
    model = road_network.Model(config)
    learn_a_step(road_training.RECIPE, model, batch)
    assert ("projection" in road_losses.loss(model.eval(), model(batch["image"]), batch)) == (preset != "no_reproj")
    comes_back(tmp_path, "box3d", model, config)


@pytest.mark.slow
@pytest.mark.parametrize("preset", category_model.PRESETS)
def test_presets_of_categories(preset, tmp_path):
    torch.manual_seed(0)
    shapes = category_training.made_shapes("mug", 2)
    config = category_training.make_config(shapes, preset)
    views = category_samples.CategoryViews("mug", [0, 1], config.input_size, 2, seed=0)
    model = category_model.Model(config)
    recipe = loop.Recipe(("image", "visible", "view"), category_model.loss)
    batch = torch.utils.data.default_collate([views[0], views[1]])
    learn_a_step(recipe, model, batch)
    comes_back(tmp_path, "category", model, config)


@pytest.mark.slow
@pytest.mark.parametrize("preset", viewpoint_training.PRESETS)
def test_presets_of_viewpoints(preset, tmp_path):
    torch.manual_seed(0)
    config = viewpoint_training.PRESETS[preset](("chair",))
    config = dataclasses.replace(config, pretrained=False)
    model = viewpoint_model.Model(config)
    batch = {"image": torch.rand(2, 8, 224, 224), "angles": torch.rand(2, 3)}
    learn_a_step(loop.Recipe(("image",), viewpoint_model.loss), model, batch)
    comes_back(tmp_path, "viewpoint", model, config)


# ----------------------------------------------------------------------------------------------------- how they are trained


def test_the_published_training_of_epropnp_6dof():
    """The configuration files of EPro-PnP-6DoF: RMSProp at 1e-4, batches of 32, 160 epochs, a tenth at 50, 100, 150."""
    thirteen = tuple(range(1, 14))
    plan = objects_training.make_training("probabilistic", thirteen, "basic")
    assert (plan.optimizer, plan.lr, plan.batch_size, plan.backbone_rate, plan.weight_decay) == ("rmsprop", 1e-4, 32, 1.0, 0.0)
    assert plan.steps == math.ceil(160 * 13 * 1180 / 32)
    epoch = plan.steps / 160
    rates = [
        loop.planned_rate(plan, step / plan.steps) for step in (499, 501, 49 * epoch, 51 * epoch, 101 * epoch, 151 * epoch)
    ]
    assert rates == pytest.approx([0.1, 1, 1, 0.1, 0.01, 0.001])
    long = objects_training.make_training("probabilistic", thirteen, "long")
    assert long.steps == pytest.approx(2 * plan.steps, abs=1)
    assert long.drops == pytest.approx(plan.drops)
    config = objects_training.make_config("probabilistic", thirteen, "basic")
    assert (config.shift, config.zoom, config.even, config.far, config.initial_spread) == (0.25, 0.25, True, 1000.0, 1e-3)
    started = objects_training.make_config("probabilistic", thirteen, "coord-init")
    assert (started.far, started.monte_carlo_weight, started.rotation_weight) == (10.0, 0.02, 0.1)


def test_weights_begin_as_published():
    config = objects_training.make_config("probabilistic", (1,), "basic", {"pretrained": False})
    model = objects_training.METHODS["probabilistic"].model(config, OBJECTS)
    heads = [p for n, p in model.net.stages.named_parameters() if p.dim() > 1]
    assert len(heads) == 9
    assert all(float(p.detach().std()) == pytest.approx(1e-3, rel=0.05) for p in heads)
    assert float(model.weight_scale.bias.detach().abs().max()) == 0  # a factor of 1


def test_options_come_before_the_preset_and_epochs_stay():
    plan = objects_training.make_training("probabilistic", (1,), "reg", batch_size=8, lr=1e-3)
    assert (plan.batch_size, plan.lr, plan.optimizer) == (8, 1e-3, "rmsprop")
    assert plan.steps == 160 * 1180 / 8
    assert objects_training.make_training("probabilistic", (1,), "reg", steps=10).steps == 10
    assert objects_training.make_training("coordinates", (1,), "unet") == TrainConfig()


def test_what_differs_from_the_paper_is_said():
    changed = objects_training.make_config("probabilistic", (1,), "coord-init", {"input_size": 128, "output_size": 32})
    plan = objects_training.make_training("probabilistic", (1,), "coord-init", batch_size=8)
    said = "\n".join(objects_training.describe("probabilistic", (1,), "coord-init", changed, plan))
    assert "rmsprop, batches of 8, 23600 steps" in said
    assert "input_size 128 (published 256)" in said
    assert "batch_size 8 (published 32)" in said
    assert "--init FILE of a run with --preset coords" in said
    started = objects_training.describe("probabilistic", (1,), "coord-init", changed, plan, started=True)
    assert not any("--preset coords" in line for line in started)
    assert objects_training.describe("probabilistic", (1,), "unet", changed, plan) == []


def test_the_other_published_trainings():
    pix2pose = objects_training.make_training("coordinates", (1,), "pix2pose")
    assert (pix2pose.optimizer, pix2pose.lr, pix2pose.batch_size, pix2pose.steps) == ("adam", 1e-3, 50, 60_000)
    assert [round(loop.planned_rate(pix2pose, d), 9) for d in (0.4, 0.5, 0.96)] == [1, 0.1, 0.01]
    rnnpose = objects_training.make_training("refiner", (1,), "published")
    assert (rnnpose.lr, rnnpose.batch_size, rnnpose.steps) == (1e-4, 1, 200_000)
    det = road_training.make_training("v1b")
    assert (det.batch_size, det.steps, det.drops) == (12, 168_780, (10 / 12, 11 / 12))
    assert road_training.make_training("v2").drops == (9 / 12, 11 / 12)
    nabs = category_training.make_training("published")
    assert (nabs.batch_size, nabs.betas, nabs.optimizer) == (256, (0.5, 0.999), "adam")
    assert [loop.planned_rate(nabs, d) for d in (0.25, 0.5, 0.75)] == pytest.approx([1, 1, 0.5])
    assert viewpoint_training.make_training("combined").batch_size == 10


def test_a_published_optimiser_is_the_one_that_steps():
    config = objects_training.make_config("probabilistic", (1,), "basic", {"pretrained": False})
    entry = objects_training.METHODS["probabilistic"]
    learner = loop._Learner(
        entry.recipe, entry.model(config, OBJECTS), objects_training.make_training("probabilistic", (1,), "basic")
    )
    (optimizer,) = learner.configure_optimizers()
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert [(g["lr"], g["alpha"], g["weight_decay"], g["scale"]) for g in optimizer.param_groups] == [
        (1e-4, 0.99, 0.0, 1.0)
    ] * 2
