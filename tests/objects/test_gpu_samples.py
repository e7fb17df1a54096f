"""Crops drawn on the device are the crops that workers draw: same truth, same picture but for chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monopose.commands import demo
from monopose.geometry import camera as camera_ops
from monopose.objects import gpu_samples, training
from monopose.objects import samples as object_samples
from monopose.render import maps
from monopose.render.scene import render_scene
from monopose.synthesis import augment
from monopose.synthesis import samples as crop_samples
from monopose.training.loop import TrainConfig

SIDE, OUT = 48, 24


@pytest.fixture(scope="module")
def source():
    folder = demo.folder() / "objects"
    models = training.read_objects(folder, (1, 3, 4), 1500)
    models[4] = replace(models[4], colors=None, texture=None)
    config = replace(training.scene_config(folder, (1, 3, 4), upright=True, distance=(0.4, 1.2)), distractors=(1, 3))
    return crop_samples.Source(models, training.read_data_camera(folder), (), config)


@pytest.fixture(scope="module")
def crops(source):
    return object_samples.CropSamples(source, SIDE, OUT, greyed_share=0.5, seed=3)


@pytest.fixture(scope="module")
def studio(source):
    return gpu_samples.GpuSampler(source, OUT, "cpu")


def collated(samples, rows):
    return torch.utils.data.default_collate([samples[i] for i in rows])


def test_truth_is_that_of_the_crops(crops, studio):
    rows = range(10)
    drawn, expected = studio.draw(collated(gpu_samples.CropSpecs(crops), rows)), collated(crops, rows)
    assert drawn.keys() == expected.keys()
    for key in ("label", "cam_from_obj", "box", "mask_full"):
        assert torch.equal(drawn[key], expected[key]), key
    torch.testing.assert_close(drawn["K"], expected["K"])
    torch.testing.assert_close(drawn["coordinates"], expected["coordinates"], rtol=1e-4, atol=1e-6)
    for key in drawn:
        assert (drawn[key].shape, drawn[key].dtype) == (expected[key].shape, expected[key].dtype)
    image = drawn["image"]
    assert torch.isfinite(image).all()
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    # covered and cut off at random, but the same objects stand in front
    agree = (drawn["mask_visible"] == expected["mask_visible"]).float().mean()
    assert agree > 0.9
    assert not (drawn["mask_visible"] & ~drawn["mask_full"]).any()


def test_objects_look_as_the_renderer_draws_them(source, crops, studio):
    """Light, material, texture, vertex colours and occlusion, before the camera: those of `render_scene` with the same look."""
    plans = gpu_samples.CropSpecs(crops)
    compared = 0
    for i in range(12):
        _, layout, square, look, _ = crops.sample_scene(i)
        image, owner, visible = studio._rendered(collated(plans, [i]))
        K = camera_ops.crop_resize_K(source.camera.K, square, (SIDE, SIDE))
        scene = render_scene(
            layout.models,
            layout.cam_from_obj,
            K,
            (SIDE, SIDE),
            look.lights,
            None,
            look.specular,
            look.shininess,
            flat=look.flat,
        )
        if scene.visibility[0] < crop_samples.HIDDEN:
            assert (owner <= 0).all()
            assert torch.equal(visible[0], scene.masks_full[0])
            continue
        assert torch.equal(owner[0], scene.index)
        assert torch.equal(visible[0], scene.masks_visible[0])
        expected = scene.image.permute(1, 2, 0).clone()
        for n, model in enumerate(layout.models):
            mine = scene.index == n
            if model.colors is None and model.texture is None:
                expected[mine] = image[0][mine]  # painted at random
            else:
                expected[mine] *= torch.from_numpy(look.gains[n])
                compared += int(mine.sum())
        torch.testing.assert_close(image[0], expected, rtol=1e-4, atol=1e-4)
    assert compared > 2000


def test_surfaces_without_colours_get_random_ones(source, studio):
    row = [m.obj_id for m in studio.bank].index(4)
    assert set(studio.paintings) == {row}
    paintings = studio.paintings[row]
    assert paintings.shape == (gpu_samples.PAINTINGS, len(source.models[4].vertices), 3)
    assert len(torch.unique(paintings[:, 0], dim=0)) > gpu_samples.PAINTINGS / 2


def test_a_camera_that_does_nothing_changes_nothing():
    batch, rng = 3, torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, SIDE, SIDE, generator=rng)
    point = torch.zeros(batch, gpu_samples.SPREAD, gpu_samples.SPREAD)
    point[:, gpu_samples.SPREAD // 2, gpu_samples.SPREAD // 2] = 1
    torch.testing.assert_close(gpu_samples._spread(image, point), image)
    cube = torch.from_numpy(gpu_samples._COLOURS.copy()).view(1, *[gpu_samples.CUBE] * 3, 3).expand(batch, -1, -1, -1, -1)
    torch.testing.assert_close(gpu_samples._recoloured(image, cube.float() / 255), image, atol=3e-3, rtol=0)


def test_colours_change_as_the_workers_change_them():
    """The cube interpolates what `photometric` does to a picture, but for contrast, which turns about the picture's mean."""
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)  # whose mean is that of the cube
    for seed in range(12):
        expected = augment.photometric(image, np.random.default_rng(seed)).astype(float) / 255
        cube = augment.photometric(gpu_samples._COLOURS, np.random.default_rng(seed))
        cube = torch.from_numpy(cube).view(1, *[gpu_samples.CUBE] * 3, 3).float() / 255
        found = gpu_samples._recoloured(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255, cube)[0]
        assert np.abs(found.permute(1, 2, 0).numpy() - expected).mean() < 0.02


def test_blur_is_that_of_the_workers():
    rng = np.random.default_rng(0)
    image = (rng.uniform(0, 1, (SIDE, SIDE, 3)) * 255).astype(np.float32)
    for seed in range(8):
        kernel = gpu_samples._point_spread(1.0, np.random.default_rng(seed))
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        expected = augment.blur(image, np.random.default_rng(seed), 1.0)
        found = gpu_samples._spread(torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(kernel)[None])
        inner = np.s_[12:-12, 12:-12]
        assert np.abs(found[0].permute(1, 2, 0).numpy()[inner] - expected[inner]).max() < 2


def test_masks_grow_by_their_own_reach():
    masks = torch.zeros(3, 9, 9, dtype=torch.bool)
    masks[:, 4, 4] = True
    assert gpu_samples._grown(masks, torch.tensor([0, 1, 3])).flatten(1).sum(1).tolist() == [1, 9, 49]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_draws_what_a_cpu_draws(source, crops, studio):
    batch = collated(gpu_samples.CropSpecs(crops), range(16))
    there = gpu_samples.GpuSampler(source, OUT, "cuda").draw({k: v.cuda() for k, v in batch.items()})
    here = studio.draw(batch)
    for key, value in here.items():
        close = torch.isclose(there[key].cpu().float(), value.float(), atol=2e-3)
        assert close.float().mean() > 0.999, key  # a pixel on an edge may fall to the other side


def test_ranges_lie_beside_each_other():
    first = torch.tensor([0, 2, 5, 6])
    picture, row, place = torch.tensor([0, 0, 2]), torch.tensor([2, 0, 1]), torch.tensor([0, 1, 0])
    rows, owner, start = gpu_samples._beside(first, row, picture, place, 3)
    assert rows.tolist() == [[5, 0, 1], [0, 0, 0], [2, 3, 4]]
    assert owner.tolist() == [[0, 1, 1], [-1, -1, -1], [0, 0, 0]]
    assert start.tolist() == [0, 1, 0]


def test_plans_survive_a_new_process(crops):
    """Workers that are started afresh have copies of the models."""
    import pickle

    plans = gpu_samples.CropSpecs(crops)
    copy = pickle.loads(pickle.dumps(plans))
    for key, value in plans[5].items():
        assert torch.equal(value, copy[5][key]), key


@pytest.mark.slow
@pytest.mark.parametrize("method", ["coordinates", "refiner"])
def test_training_from_plans(method, tmp_path):
    config = TrainConfig(steps=2, batch_size=2, workers=0)
    changes = {"window_size": 64} if method == "refiner" else {"input_size": 64, "output_size": 32}
    preset = training.make_config(method, (1,), "small" if method == "refiner" else None)
    changes = {k: v for k, v in changes.items() if k != "window_size"}
    folder = demo.folder() / "objects"
    file = training.train(
        method, folder, tmp_path, obj_ids=(1,), config=config, render="device", faces=500, progress_bar=False,
        method_config=replace(preset, pretrained=False, **changes),
    )  # fmt: skip
    assert file.is_file()


def test_what_cannot_be_planned_says_so(tmp_path):
    with pytest.raises(ValueError, match="detector cannot be drawn on the device; use workers"):
        training.train("detector", demo.folder() / "objects", tmp_path, obj_ids=(1,), render="device", faces=500)


def test_shading_of_maps_is_that_of_points():
    """Lights of its own for each picture, over maps: the same as point by point."""
    rng = torch.Generator().manual_seed(0)
    albedo, normals, points = (torch.randn(2, 3, 4, 3, generator=rng) for _ in range(3))
    lights = maps.Lights(*(torch.rand(2, *s, generator=rng) for s in ((3,), (3, 3), (3, 3))))
    both = maps.shade(albedo, normals, points, lights, torch.full((2, 3, 4, 1), 0.3), torch.full((2, 3, 4, 1), 9.0))
    for b in range(2):
        own = maps.Lights(lights.ambient[b], lights.directions[b], lights.direction_colors[b])
        flat = [v[b].reshape(-1, 3) for v in (albedo, normals, points)]
        torch.testing.assert_close(both[b].reshape(-1, 3), maps.shade(*flat, own, 0.3, 9.0))
