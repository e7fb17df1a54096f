"""One object per picture, many at once: the same pictures as `render_scene` makes of each alone."""

from dataclasses import replace

import pytest
import torch

from monopose.geometry import se3
from monopose.render import maps, scene
from monopose.render.maps import Lights
from monopose.render.raster import rasterize
from monopose.render.scene import render_scene
from shapes import box

SIZE = (40, 56)


def objects():
    """Coloured, textured, grey; with 24, 54 and 96 vertices."""
    colored, textured, grey = box(cells=2), box((0.05, 0.12, 0.07), cells=1, obj_id=2), box((0.1, 0.1, 0.02), cells=3, obj_id=3)
    g = torch.Generator().manual_seed(0)
    textured = replace(textured, colors=None, uv=torch.rand(24, 2, generator=g), texture=torch.rand(3, 16, 8, generator=g))
    return [colored, textured, replace(grey, colors=None), colored]


def placed():
    """Poses, one of them partly outside the picture, and a camera for each."""
    tangent = torch.tensor(
        [
            [0.0, 0.0, 0.4, 0.5, 0.4, 0.1],
            [0.02, 0.01, 0.5, -1.0, 0.3, 2.0],
            [-0.01, 0.0, 0.3, 2.0, 1.0, 0.0],
            [0.1, 0.05, 0.4, 0, 1, 1],
        ]
    )
    poses = se3.from_rt(se3.exp(tangent)[:, :3, :3], tangent[:, :3])
    K = torch.tensor([[120.0, 0.0, 27.0], [0.0, 118.0, 20.5], [0.0, 0.0, 1.0]]).repeat(4, 1, 1)
    K[:, :2] *= torch.tensor([1.0, 1.4, 0.8, 1.1])[:, None, None]
    return poses, K


def test_each_picture_is_that_of_the_object_alone():
    models, (poses, K) = objects(), placed()
    lights = Lights(directions=torch.nn.functional.normalize(torch.tensor([[0.4, -0.5, -1.0]]), dim=1))
    for given in (None, lights):
        drawn = scene.draw(models, scene.side_by_side(models), poses, K, SIZE, given, background=0.25)
        for i, model in enumerate(models):
            alone = render_scene([model], poses[i : i + 1], K[i], SIZE, given, torch.full((3, *SIZE), 0.25))
            torch.testing.assert_close(drawn.image[i], alone.image, atol=1e-5, rtol=0)
            torch.testing.assert_close(drawn.coordinates[i], alone.coordinates, atol=1e-6, rtol=0)
            torch.testing.assert_close(drawn.fragments.depth[i], alone.depth)
            seen = alone.masks_full[0]
            assert torch.equal(drawn.fragments.face[i] >= 0, seen)
            assert int(seen.sum()) > 60
            # the normals, from the object's own
            fragments = rasterize(se3.transform(poses[i], model.vertices)[None], model.faces, K[i], SIZE)
            points = se3.transform(poses[i], model.vertices)[None]
            expected = maps.normals(fragments, model.faces, points, (model.normals @ poses[i, :3, :3].T)[None])[0]
            torch.testing.assert_close(drawn.normals_cam[i], expected, atol=1e-5, rtol=0)
    pictures = drawn.image.flatten(1)
    assert float((pictures[0] - pictures[1]).abs().max()) > 0.1  # they differ, so that a mix-up would show


def test_gradients_reach_the_attributes_of_the_right_object():
    models, (poses, K) = objects()[:3], placed()
    meshes = scene.side_by_side(models)
    drawn = scene.draw(models, meshes, poses[:3], K[:3], SIZE)
    attributes = torch.rand(3, meshes.vertices.shape[1], 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    values = maps.interpolate(scene.every(drawn.fragments, 2), meshes.faces, attributes)
    values[1].sum().backward()
    assert not bool(attributes.grad[[0, 2]].any())
    grad = attributes.grad[1]
    assert not bool(grad[len(models[1].vertices) :].any())  # padding
    pixels = int((scene.every(drawn.fragments, 2).face[1] >= 0).sum())
    assert float(grad[:, 0].sum()) == pytest.approx(pixels, rel=1e-4)  # the weights of a pixel sum to one
    # interpolated positions are the coordinates
    values = maps.interpolate(drawn.fragments, meshes.faces, meshes.vertices)
    torch.testing.assert_close(values, drawn.coordinates, atol=1e-6, rtol=0)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_every_step_takes_the_pixels_it_says(step):
    models, (poses, K) = objects()[:2], placed()
    drawn = scene.draw(models, scene.side_by_side(models), poses[:2], K[:2], SIZE)
    few, values = scene.every(drawn.fragments, step), scene.every_value(drawn.coordinates, step)
    assert few.face.shape == (2, SIZE[0] // step, SIZE[1] // step)
    for row, column in ((0, 0), (3, 7), (SIZE[0] // step - 1, SIZE[1] // step - 1)):
        y, x = row * step + step // 2, column * step + step // 2
        assert torch.equal(few.depth[:, row, column], drawn.fragments.depth[:, y, x])
        assert torch.equal(values[:, row, column], drawn.coordinates[:, y, x])


def test_an_object_out_of_sight_leaves_the_background():
    models, (poses, K) = objects()[:2], placed()
    poses = poses[:2].clone()
    poses[0, 0, 3] = 5.0
    drawn = scene.draw(models, scene.side_by_side(models), poses, K[:2], SIZE, background=0.3)
    torch.testing.assert_close(drawn.image[0], torch.full((3, *SIZE), 0.3))
    assert not bool((drawn.fragments.face[0] >= 0).any())
    assert bool((drawn.fragments.face[1] >= 0).any())
