"""Scenes: who hides whom, by closed forms; windows against whole images; appearance."""

import pytest
import torch
import trimesh

from monopose.geometry import rotation, se3
from monopose.render import Lights, positions, rasterize, render_masks, render_scene
from monopose.types import ObjectModel

K = torch.tensor([[100.0, 0.0, 32.0], [0.0, 100.0, 24.0], [0.0, 0.0, 1.0]])
SIZE = (48, 64)
AMBIENT = Lights(torch.ones(3), torch.zeros(0, 3), torch.zeros(0, 3))


def model(mesh, dtype=torch.float32, **appearance):
    vertices = torch.tensor(mesh.vertices, dtype=dtype)
    normals = torch.tensor(mesh.vertex_normals, dtype=dtype)
    return ObjectModel(1, "thing", vertices, torch.tensor(mesh.faces), normals, float(mesh.scale), **appearance)


def square(side, **appearance):
    """A square in the plane z = 0 around the origin, metres."""
    s = side / 2
    vertices = torch.tensor([[-s, -s, 0.0], [s, -s, 0.0], [s, s, 0.0], [-s, s, 0.0]])
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    return ObjectModel(0, "square", vertices, faces, torch.tensor([[0.0, 0.0, -1.0]]).repeat(4, 1), side * 2**0.5, **appearance)


def ball(radius=0.05, dtype=torch.float32, **appearance):
    return model(trimesh.creation.icosphere(subdivisions=3, radius=radius), dtype, **appearance)


def at(*places, dtype=torch.float32):
    poses = torch.eye(4, dtype=dtype).repeat(len(places), 1, 1)
    poses[:, :3, 3] = torch.tensor(places, dtype=dtype)
    return poses


def columns(first, last, top, bottom):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top : bottom + 1, first : last + 1] = True
    return mask


@pytest.mark.parametrize("front_first", [True, False])
def test_a_near_square_hides_part_of_a_far_one(front_first):
    # near: side 10.2 px around (22, 24); far: side 20.2 px around (32, 24), twice as deep
    models, poses = [square(0.102), square(0.404)], at((-0.1, 0.0, 1.0), (0.0, 0.0, 2.0))
    near, far = columns(17, 27, 19, 29), columns(22, 42, 14, 34)
    order = [0, 1] if front_first else [1, 0]
    out = render_scene([models[i] for i in order], poses[order], K, SIZE)
    n, f = order.index(0), order.index(1)
    assert torch.equal(out.masks_full[n], near)
    assert torch.equal(out.masks_full[f], far)
    assert torch.equal(out.masks_visible[n], near)
    assert torch.equal(out.masks_visible[f], far & ~near)
    want = torch.full(SIZE, -1)
    want[far], want[near] = f, n
    assert torch.equal(out.index, want)
    torch.testing.assert_close(out.depth, torch.where(near, 1.0, torch.where(far, 2.0, 0.0)))
    assert out.visibility[n] == 1
    torch.testing.assert_close(out.visibility[f], (far & ~near).sum() / far.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_intersecting_spheres_meet_in_a_plane(dtype):
    # equal balls left and right of x = 0: each pixel shows the ball on its side; the camera looks along x = 0
    mesh = ball(0.08, dtype)
    poses = at((-0.03, 0.0, 0.5), (0.03, 0.0, 0.5), dtype=dtype)
    out = render_masks([mesh, mesh], poses, K.to(dtype), SIZE)
    x = torch.arange(SIZE[1]).expand(SIZE)
    both = out.masks_full.all(0)
    assert both.sum() > 300
    assert bool((out.index[both & (x < 32)] == 0).all() and (out.index[both & (x > 32)] == 1).all())
    assert out.depth.dtype == out.visibility.dtype == dtype
    centres = poses[:, :3, 3]
    points = positions(out.depth[None], K.to(dtype))[0]
    for i in range(2):
        radius = (points[out.masks_visible[i]] - centres[i]).norm(dim=-1)
        assert radius.max() < 0.08 * (1 + 1e-5)
        assert radius.min() > 0.08 * 0.99


def test_masks_are_consistent_and_windows_equal_whole_images():
    g = torch.Generator().manual_seed(0)
    models = [ball(0.04), model(trimesh.creation.box((0.1, 0.06, 0.08))), ball(0.03), square(0.1)] * 2
    R = rotation.random_rotations(8, g)
    t = (torch.rand(8, 3, generator=g) - 0.5) * torch.tensor([0.25, 0.2, 0.3]) + torch.tensor([0.0, 0.0, 0.5])
    t[7] = torch.tensor([0.05, 0.0, 0.04])  # crosses the near plane
    poses = se3.from_rt(R, t)
    out = render_scene(models, poses, K, SIZE)
    assert torch.equal(out.index >= 0, out.masks_full.any(0))
    assert torch.equal(out.index >= 0, out.depth > 0)
    nearest = torch.full(SIZE, torch.inf)
    for i, m in enumerate(models):
        whole = rasterize(se3.transform(poses[i], m.vertices)[None], m.faces, K, SIZE)
        assert (out.masks_full[i] != (whole.face[0] >= 0)).sum() <= 1
        nearest = torch.where(whole.face[0] >= 0, torch.minimum(nearest, whole.depth[0]), nearest)
        assert torch.equal(out.masks_visible[i], out.index == i)
        area = out.masks_full[i].sum()
        torch.testing.assert_close(out.visibility[i], out.masks_visible[i].sum() / area.clamp_min(1))
    hit = (out.index >= 0) & nearest.isfinite()
    torch.testing.assert_close(out.depth[hit], nearest[hit], atol=1e-4, rtol=1e-4)
    assert ((out.visibility > 0) & (out.visibility < 1)).sum() >= 3  # the scene has occlusion
    # object coordinates of the front object, moved by its pose, are the points of the depth map
    moved = torch.einsum("hwij,hwj->hwi", poses[out.index.clamp_min(0), :3, :3], out.coordinates)
    moved = moved + poses[out.index.clamp_min(0), :3, 3]
    seen = positions(out.depth[None], K)[0]
    torch.testing.assert_close(moved[out.index >= 0], seen[out.index >= 0], atol=1e-6, rtol=0)
    assert bool((out.coordinates[out.index < 0] == 0).all())
    fast = render_masks(models, poses, K, SIZE)
    for name in ("depth", "index", "masks_full", "masks_visible", "visibility"):
        assert torch.equal(getattr(fast, name), getattr(out, name))


def test_no_objects_give_the_background():
    background = torch.rand(3, *SIZE)
    out = render_scene([], torch.zeros(0, 4, 4), K, SIZE, background=background)
    assert torch.equal(out.image, background)
    assert out.masks_full.shape == out.masks_visible.shape == (0, *SIZE)
    assert out.visibility.shape == (0,)
    assert bool((out.index == -1).all() and (out.depth == 0).all() and (out.coordinates == 0).all())
    assert not bool(render_scene([], torch.zeros(0, 4, 4), K, SIZE).image.any())


def test_objects_out_of_sight_have_empty_masks():
    places = [(0, 0, -1), (5, 0, 1), (-5, 0, 1), (0, 5, 1), (0, -5, 1), (0, 0, 0.5), (0.3205, 0, 1), (5000, 0, 1e6)]
    out = render_scene([ball()] * 8, at(*places), K, SIZE)
    assert out.masks_full.any(-1).any(-1).tolist() == [False] * 5 + [True, True, False]
    assert out.visibility.tolist() == [0.0] * 5 + [1.0, 1.0, 0.0]
    empty = ObjectModel(3, "empty", torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3), 0.0)
    assert not bool(render_masks([empty], at((0, 0, 1)), K, SIZE).masks_full.any())


def test_appearance_vertex_colours_texture_and_grey():
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # picture upright in a y-down camera
    texture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    pose = at((0.0, 0.0, 1.0))
    background = torch.full((3, *SIZE), 0.25)

    def picture(**appearance):
        return render_scene([square(0.32, **appearance)], pose, K, SIZE, AMBIENT, background).image

    grey = picture()
    torch.testing.assert_close(grey[:, 24, 32], torch.full((3,), 0.7))
    torch.testing.assert_close(grey[:, 2, 2], torch.full((3,), 0.25))
    colored = picture(colors=colors)
    torch.testing.assert_close(colored[:, 10, 18], torch.tensor([30.0, 0.0, 2.0]) / 32)  # the corner lies at (16, 8)
    torch.testing.assert_close(colored[:, 24, 32], (colors[0] + colors[2]) / 2)  # on the diagonal
    textured = picture(colors=colors, uv=uv, texture=texture)  # texture goes before vertex colours
    # pixel (16 + x, 8 + y) lies at (x, y) / 32 of the picture, texel (x, y) / 4 - 0.5
    for x, y in ((2, 2), (14, 6), (30, 26)):
        torch.testing.assert_close(textured[:, 8 + y, 16 + x], texture[:, (y - 2) // 4, (x - 2) // 4], atol=1e-5, rtol=0)


def test_lights_stay_in_the_camera_frame_and_materials_per_object():
    headlight = render_scene([ball(), ball()], at((-0.1, 0, 0.5), (0.1, 0, 0.5)), K, SIZE, specular=[0.0, 0.5]).image
    left, right = headlight[:, 24, 12], headlight[:, 24, 52]
    torch.testing.assert_close(left, torch.full((3,), 0.7), atol=0.03, rtol=0)
    assert bool((right > left + 0.2).all())
    turned = at((0.0, 0.0, 0.5))
    turned[0, :3, :3] = rotation.random_rotations(1, torch.Generator().manual_seed(2))[0]
    side = Lights(torch.zeros(3), torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3))
    for flat in (False, True):
        image = render_scene([ball()], turned, K, SIZE, side, flat=flat).image
        assert bool((image[:, 24, 39:41] > 0.4).all() and (image[:, 24, 24:30] == 0).all())
    bright = render_scene([ball()], turned, K, SIZE, Lights(torch.full((3,), 5.0))).image
    assert bright.max() == 1  # clamped


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"cam_from_obj must be \(2, 4, 4\), one pose per model, got \(1, 4, 4\)"):
        render_scene([ball(), ball()], at((0, 0, 1)), K, SIZE)
    with pytest.raises(ValueError, match=r"K must be \(3, 3\), got \(1, 3, 3\)"):
        render_masks([ball()], at((0, 0, 1)), K[None], SIZE)
    with pytest.raises(ValueError, match=r"background must be \(3, 48, 64\), got \(48, 64, 3\)"):
        render_scene([ball()], at((0, 0, 1)), K, SIZE, background=torch.zeros(48, 64, 3))
    pose = at((0, 0, 1))
    pose[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        render_masks([ball()], pose, K, SIZE)
