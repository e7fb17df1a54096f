"""Drawing in one pass against the readable code beside it: the same pictures and the same truth from the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monopose.commands import demo
from monopose.geometry import camera as camera_ops
from monopose.geometry import se3
from monopose.objects import training as train
from monopose.objects.samples import CropSamples
from monopose.render import maps
from monopose.render.raster import rasterize
from monopose.synthesis import augment, fused
from monopose.synthesis import scene as synth
from monopose.synthesis.samples import Source, amodal_box

SIDE, OUT = 96, 48


@pytest.fixture(scope="module")
def crops():
    """Objects with textures, with vertex colours and without either, among coloured distractors."""
    folder = demo.folder() / "objects"
    models = train.read_objects(folder, (1, 3, 4, 5), 1500)
    models[4] = replace(models[4], colors=None, texture=None)
    pattern = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    models[5] = replace(models[5], uv=models[5].vertices[:, :2] * 9 - 0.3, texture=pattern)
    config = replace(train.scene_config(folder, (1, 3), upright=True, distance=(0.4, 1.2)), distractors=(1, 3))
    return CropSamples(Source(models, train.read_data_camera(folder), (), config), SIDE, OUT, seed=3)


def surfaces(model):
    return "texture" if model.texture is not None else "colours" if model.colors is not None else "plain"


def test_pictures_are_those_of_the_readable_renderer(crops):
    camera, drawn, apart, kinds = crops.source.camera, 0, 0, set()
    for i in range(30):
        _, layout, square, look, rng = crops.sample_scene(i)
        look = look._replace(flat=i % 5 == 0, specular=[0.5 * (i % 2)] * len(look.specular))
        K = camera_ops.crop_resize_K(camera.K, square, (SIDE, SIDE))
        background, native = augment.procedural_background((SIDE, SIDE), rng), float(square[2] - square[0])
        state = rng.bit_generator.state
        expected, scene = synth.render(layout, look, K, (SIDE, SIDE), background, native, rng)
        after = rng.random()
        rng.bit_generator.state = state
        picture, found = fused.render(layout, look, K.double().numpy(), (SIDE, SIDE), background, native, rng)
        assert rng.random() == after  # what is drawn later is the same, too
        assert picture.shape == expected.shape
        assert picture.dtype == np.uint8
        assert (found.owner != scene.index.numpy()).mean() < 2e-4
        np.testing.assert_allclose(found.visibility, scene.visibility.numpy(), atol=5e-3)
        apart += int((np.abs(picture.astype(int) - expected).max(-1) > 2).sum())
        drawn += SIDE * SIDE
        kinds |= {surfaces(layout.models[n]) for n in np.unique(found.owner[found.owner >= 0])}
    assert apart < 1e-3 * drawn
    assert kinds == {"texture", "colours", "plain"}


def crop_target(model, cam_from_obj, K, side):
    """True object coordinates (3, side, side) of a square crop as if nothing hid the object, and its silhouette, plainly."""
    points = se3.transform(cam_from_obj, model.vertices)[None]
    fragments = rasterize(points, model.faces, K, (side, side))
    return maps.coordinates(fragments, model.faces, model.vertices)[0].permute(2, 0, 1), fragments.face[0] >= 0


def test_targets_and_boxes_are_those_of_the_readable_code(crops):
    camera = crops.source.camera
    for i in range(20):
        model, layout, square, _, _ = crops.sample_scene(i)
        pose = layout.cam_from_obj[0]
        K = camera_ops.crop_resize_K(camera.K, square, (OUT, OUT))
        expected, silhouette = crop_target(model, pose, K, OUT)
        coordinates, full = fused.target(model, pose.double().numpy(), K.double().numpy(), OUT)
        assert (full != silhouette.numpy()).sum() <= 1
        both = full & silhouette.numpy()
        difference = np.abs(coordinates - expected.numpy())[:, both]
        assert np.quantile(difference, 0.99) < 1e-6  # an edge between two faces may go to either
        assert difference.max() < 0.05 * model.diameter
        assert not coordinates[:, ~full].any()
        box = fused.bounds(model, pose.double().numpy(), camera.K.double().numpy())
        np.testing.assert_allclose(box, amodal_box(model, pose, camera.K).numpy(), atol=1e-3)


def test_an_object_across_the_near_plane_is_cut_there(crops):
    """Very close: part of it lies behind the camera, and the rest is drawn as the readable code draws it."""
    model = synth.distractors()[0]
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([0.0, 0.0, 0.3 * model.diameter])
    K = torch.tensor([[60.0, 0, 47.5], [0, 60.0, 47.5], [0, 0, 1]])
    expected, silhouette = crop_target(model, pose, K, SIDE)
    coordinates, full = fused.target(model, pose.double().numpy(), K.double().numpy(), SIDE)
    assert full.mean() > 0.3
    assert (full != silhouette.numpy()).mean() < 1e-3
    np.testing.assert_allclose(
        coordinates[:, full & silhouette.numpy()], expected.numpy()[:, full & silhouette.numpy()], atol=1e-5
    )


def test_points_that_are_not_finite_are_refused(crops):
    model = synth.distractors()[0]
    broken = replace(model, vertices=model.vertices.index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(ValueError, match="finite"):
        fused.target(broken, np.eye(4), np.eye(3), 8)


def test_nothing_to_draw_is_the_background(crops):
    background = np.full((8, 8, 3), 200, np.uint8)
    nothing = synth.Layout([], torch.zeros(0, 4, 4))
    rng = np.random.default_rng(0)
    picture, found = fused.render(nothing, synth.random_appearance(0, rng), np.eye(3), (8, 8), background, 8.0, rng)
    assert (found.owner == -1).all()
    assert found.visibility.shape == (0,)
    assert picture.max() <= 255
    assert picture.std() < 60
