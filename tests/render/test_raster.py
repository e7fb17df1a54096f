"""Rasteriser: closed forms, watertight edges, near plane, every implementation against the plain-torch reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trimesh

from monopose.geometry import rotation
from monopose.render import Fragments, rasterize, rasterize_reference

IMPLEMENTATIONS = [rasterize, rasterize_reference]
K = torch.tensor([[60.0, 0.0, 31.5], [0.0, 55.0, 23.0], [0.0, 0.0, 1.0]])
SIZE = (48, 64)


def rays(K, size):
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], -1).double() @ torch.linalg.inv(K.double()).T


def raycast(points, faces, K, size, near):
    """Depth by solving each ray-triangle system on its own: [a b c] weights = ray * depth, weights summing to 1."""
    best = torch.full(size, torch.inf, dtype=torch.float64)
    for face in faces:
        corners = points[face].double().T  # columns
        if torch.linalg.det(corners).abs() < 1e-12:
            continue
        solution = torch.einsum("ij,hwj->hwi", torch.linalg.inv(corners), rays(K, size))  # weights / depth
        z = 1 / solution.sum(-1)
        hit = (solution * z[..., None] >= 0).all(-1) & (z >= near)
        best = torch.where(hit & (z < best), z, best)
    return torch.where(best.isinf(), 0, best)


def random_scene(seed, faces=40, spread=0.5, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(2, 30, 3, generator=g, dtype=torch.float64) * spread + torch.tensor([0.0, 0.0, 0.6])
    triangles = torch.randint(0, 30, (faces, 3), generator=g)
    cameras = K.double().repeat(2, 1, 1)
    cameras[1, 0, 1] = 3.0  # skew
    cameras[1, :2, 2] += torch.rand(2, generator=g)
    return points.to(dtype), triangles, cameras.to(dtype)


def assert_same(a: Fragments, b: Fragments, tolerance: float, faces_differ: float = 0.0):
    same = a.face == b.face
    assert (~same).float().mean() <= faces_differ
    torch.testing.assert_close(a.bary[same], b.bary[same], atol=tolerance, rtol=0)
    torch.testing.assert_close(a.depth[same], b.depth[same], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_sphere_depth_matches_closed_form(render):
    radius, centre = 0.1, torch.tensor([0.03, -0.02, 0.5], dtype=torch.float64)
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    points = torch.tensor(sphere.vertices) + centre
    camera = torch.tensor([[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1]], dtype=torch.float64)
    out = render(points[None], torch.tensor(sphere.faces), camera, SIZE)

    d = rays(camera, SIZE)
    a, b, c = (d * d).sum(-1), (d * centre).sum(-1), centre @ centre - radius**2
    disc = b * b - a * c
    closed = torch.where(disc > 0, (b - disc.clamp_min(0).sqrt()) / a, 0)
    distance = (centre @ centre - b * b / a).clamp_min(0).sqrt()  # of the ray from the centre
    sagitta = radius - (sphere.triangles_center**2).sum(1).min() ** 0.5  # how deep the flat faces lie below the sphere
    inside = out.face[0] >= 0
    assert bool(inside[distance < radius - sagitta].all())
    assert not bool(inside[distance > radius].any())
    core = distance < 0.9 * radius
    error = (out.depth[0] - closed)[core]
    assert core.sum() > 400
    assert error.min() > -1e-12  # the mesh lies inside the sphere
    assert error.max() < sagitta / (1 - 0.9**2) ** 0.5 * 1.1


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_triangle_through_the_near_plane_matches_ray_casting(render, dtype):
    points = torch.tensor([[[-0.8, 0.3, 2.0], [0.9, 0.25, 1.5], [0.1, 0.2, -1.0]]], dtype=dtype)  # a floor that passes below
    flipped = torch.tensor([[-0.1, -0.3, -2.0], [0.9, -0.3, 1.0], [-0.9, -0.3, -0.5]], dtype=dtype)  # two corners behind
    points = torch.cat([points, flipped[None]], 1)
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    for near in (0.01, 0.4, 1.2):
        out = render(points, faces, K, SIZE, near=near)
        want = raycast(points[0], faces, K, SIZE, near)
        torch.testing.assert_close(out.depth[0].double(), want, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)
        assert bool((out.depth[0][out.face[0] >= 0] >= near * (1 - 1e-6)).all())
        assert 30 < (out.face >= 0).sum() < 0.9 * out.face.numel()
    # weights still refer to the corners of the whole face
    hit = out.face[0] >= 0
    rebuilt = torch.einsum("nk,nkc->nc", out.bary[0][hit], points[0][faces[out.face[0][hit].long()]])
    torch.testing.assert_close(rebuilt, (rays(K, SIZE).to(dtype) * out.depth[0][..., None])[hit], atol=2e-6, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_random_scenes_match_ray_casting(seed):
    points, faces, cameras = random_scene(seed, dtype=torch.float64)
    out = rasterize(points, faces, cameras, SIZE, near=0.05)
    for i in range(2):
        torch.testing.assert_close(out.depth[i], raycast(points[i], faces, cameras[i], SIZE, 0.05), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_kernel_matches_reference(dtype, seed):
    points, faces, cameras = random_scene(seed, dtype=dtype)
    kernel = rasterize(points, faces, cameras, SIZE, near=0.05)
    reference = rasterize_reference(points, faces, cameras, SIZE, near=0.05, chunk=7)
    assert kernel.face.dtype == torch.int32
    assert kernel.bary.dtype == kernel.depth.dtype == dtype
    assert bool((points[..., 2] < 0.05).any())
    assert_same(kernel, reference, 1e-6 if dtype == torch.float32 else 1e-13)


def test_kernel_matches_reference_on_a_fine_mesh():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.1)
    R = rotation.random_rotations(2, torch.Generator().manual_seed(3))
    points = torch.tensor(sphere.vertices).float() @ R.mT + torch.tensor([0.0, 0.01, 0.25])
    faces = torch.tensor(sphere.faces)
    assert_same(rasterize(points, faces, K, SIZE), rasterize_reference(points, faces, K, SIZE), 1e-6)


def square(cells, jitter=0.0, seed=0):
    """A tessellated square over the pixel rectangle (-0.5, -0.5) to (39.5, 39.5) at depth 1, camera f = 1, c = 0."""
    g = torch.Generator().manual_seed(seed)
    line = torch.linspace(-0.5, 39.5, cells + 1, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid[1:-1, 1:-1] += (torch.rand(cells - 1, cells - 1, 2, generator=g, dtype=torch.float64) - 0.5) * jitter * 40 / cells
    points = torch.cat([grid, torch.ones_like(grid[..., :1])], -1).reshape(-1, 3)
    faces = []
    for r in range(cells):
        for c in range(cells):
            a, b, d, e = (r * (cells + 1) + c + k for k in (0, 1, cells + 1, cells + 2))
            faces += [[a, b, e], [a, e, d]] if (r + c) % 2 else [[b, d, a], [b, e, d]]
    return points, torch.tensor(faces)


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
@pytest.mark.parametrize("duplicated", [False, True])
@pytest.mark.parametrize("cells, jitter", [(16, 0.0), (8, 0.7), (10, 0.0), (20, 0.0)])
def test_every_pixel_of_a_tessellated_square_is_hit_once(render, cells, jitter, duplicated):
    points, faces = square(cells, jitter)
    if cells == 10:  # every vertex and many edges exactly on pixel centres
        points[:, :2] = (points[:, :2] + 0.5).round()
    if duplicated:  # each face with its own copy of its corners
        points = points[faces].reshape(-1, 3)
        faces = torch.arange(len(points)).reshape(-1, 3)
    faces = torch.where(torch.arange(len(faces))[:, None] % 3 == 0, faces.flip(1), faces)  # winding does not matter
    single = faces[:, None]  # one face per image: count the hits
    out = render(points[None].expand(len(faces), -1, -1), single, torch.eye(3), (40, 40))
    hits = (out.face >= 0).sum(0)
    covered = (slice(0, 40), slice(0, 40)) if cells != 10 else (slice(1, 39), slice(1, 39))
    assert bool((hits[covered] == 1).all())


@pytest.mark.parametrize("seed", range(4))
def test_tilted_tessellation_has_neither_holes_nor_double_hits(seed):
    points, faces = square(9, 0.8, seed)
    points = (points - torch.tensor([19.5, 19.5, 1.0])) * 0.02
    R = rotation.random_rotations(1, torch.Generator().manual_seed(seed), torch.float64)[0]
    R = rotation.so3_exp(rotation.so3_log(R) * 0.3)
    points = (points @ R.T + torch.tensor([0.0, 0.0, 0.6])).float()
    camera = torch.tensor([[50.0, 0, 31.7], [0, 50.0, 23.2], [0, 0, 1]])
    whole = torch.tensor([[0, 9, 99], [0, 99, 90]])  # the outline as two triangles
    hits = (rasterize(points[None].expand(len(faces), -1, -1), faces[:, None], camera, SIZE).face >= 0).sum(0)
    outline = rasterize_reference(points[None].double(), whole, camera, SIZE).face[0] >= 0
    assert outline.sum() > 100
    assert hits.max() == 1
    assert ((hits == 1) != outline).sum() <= 2  # float32 corners bend the outline in the last bits


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_pixel_centres_lie_at_integers(render):
    corners = torch.tensor([[[1.9, 2.9, 1.0], [5.1, 2.9, 1.0], [1.9, 6.1, 1.0], [5.1, 6.1, 1.0]]])
    out = render(corners, torch.tensor([[0, 1, 2], [1, 3, 2]]), torch.eye(3), (9, 8))
    want = torch.zeros(9, 8, dtype=torch.bool)
    want[3:7, 2:6] = True
    assert torch.equal(out.face[0] >= 0, want)


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_weights_rebuild_depth_and_pixel(render):
    points, faces, cameras = random_scene(11, dtype=torch.float64)
    out = render(points, faces, cameras, SIZE, near=0.05)
    for i in range(2):
        y, x = (out.face[i] >= 0).nonzero().T
        w = out.bary[i, y, x]
        assert len(w) > 500
        assert w.min() > -1e-9
        torch.testing.assert_close(w.sum(-1), torch.ones(len(w), dtype=w.dtype))
        rebuilt = torch.einsum("nk,nkc->nc", w, points[i][faces[out.face[i, y, x].long()]])
        torch.testing.assert_close(rebuilt[:, 2], out.depth[i, y, x])
        q = rebuilt @ cameras[i].T
        torch.testing.assert_close(q[:, :2] / q[:, 2:], torch.stack([x, y], -1).double(), atol=1e-7, rtol=0)
    background = out.face < 0
    assert bool((out.depth[background] == 0).all() and (out.bary[background] == 0).all())


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_batch_equals_single_images(render):
    points, faces, cameras = random_scene(5)
    both = torch.stack([faces, faces.flip(0)])
    batch = render(points, both, cameras, SIZE, near=0.05)
    for i in range(2):
        single = render(points[i : i + 1], both[i], cameras[i], SIZE, near=0.05)
        for a, b in zip(batch, single, strict=True):
            assert torch.equal(a[i], b[0])


def test_threads_do_not_change_the_result():
    points, faces, cameras = random_scene(6)
    points, cameras = points.repeat(4, 1, 1), cameras.repeat(4, 1, 1)
    before = torch.get_num_threads()
    results = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(rasterize(points, faces, cameras, SIZE))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_padding_rows_are_skipped_and_indices_stay(render):
    points, faces, cameras = random_scene(7)
    padded = torch.full((2 * len(faces), 3), -1)
    padded[::2] = faces
    plain, out = render(points, faces, cameras, SIZE), render(points, padded.int(), cameras, SIZE)
    assert torch.equal(torch.where(plain.face >= 0, plain.face * 2, -1), out.face)
    assert torch.equal(plain.depth, out.depth)


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_nothing_to_see(render):
    face = torch.tensor([[0, 1, 2]])
    triangle = torch.tensor([[-0.1, -0.1, 0.0], [0.2, -0.1, 0.0], [0.0, 0.2, 0.0]])
    places = [[0, 0, -1], [0, 0, 0.005], [5, 0, 1], [-5, 0, 1], [0, 9, 1], [0, -9, 1], [1e6, 0, 1], [0, 0, 1e9]]
    points = triangle + torch.tensor(places, dtype=torch.float32)[:, None]
    assert not bool((render(points, face, K, SIZE).face >= 0).any())
    through_the_eye = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.1, 0.0, 3.0]]])  # seen edge on
    assert not bool((render(through_the_eye, face, torch.eye(3), SIZE).face >= 0).any())
    assert not bool((render(points[:1] * 0 + 1, face, K, SIZE).face >= 0).any())  # a face without area
    for shape in ((0, 3, 3), (2, 0, 3)):
        out = render(torch.zeros(shape), face[:0], K, SIZE)
        assert out.bary.shape == (shape[0], *SIZE, 3)
        assert not bool((out.face >= 0).any())


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_of_equal_depths_the_first_face_wins(render):
    points = torch.tensor([[[-1.0, -1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 1.0, 1.0]]])
    out = render(points, torch.tensor([[2, 1, 0], [0, 1, 2], [1, 2, 0]]), K, SIZE)
    assert set(out.face.unique().tolist()) == {-1, 0}


@pytest.mark.parametrize("render", IMPLEMENTATIONS)
def test_bad_input_is_named(render):
    points, faces, cameras = random_scene(1)
    broken = points.clone()
    broken[1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"points_cam.*must be finite, got NaN"):
        render(broken, faces, cameras, SIZE)
    broken[1, 3, 2] = torch.inf
    with pytest.raises(ValueError, match="must be finite"):
        render(broken, faces, cameras, SIZE)
    with pytest.raises(ValueError, match="must index the 30 points, got 30"):
        render(points, torch.tensor([[0, 1, 30]]), cameras, SIZE)
    with pytest.raises(ValueError, match=r"points_cam must be \(B, V, 3\), got \(30, 3\).*\[None\]"):
        render(points[0], faces, K, SIZE)
    with pytest.raises(ValueError, match=r"faces must be integers, \(F, 3\) or \(2, F, 3\), got \(40, 2\)"):
        render(points, faces[:, :2], cameras, SIZE)
    with pytest.raises(ValueError, match=r"got \(40, 3\) of torch\.float32"):
        render(points, faces.float(), cameras, SIZE)
    with pytest.raises(ValueError, match=r"K must be \(3, 3\) or \(2, 3, 3\), got \(3, 3, 3\)"):
        render(points, faces, K.repeat(3, 1, 1), SIZE)
    with pytest.raises(ValueError, match="near must be positive, in metres, got 0"):
        render(points, faces, K, SIZE, near=0)
    with pytest.raises(ValueError, match="size must be"):
        render(points, faces, K, (0, 3))


def test_follows_layout_dtype_and_leaves_arguments_alone():
    points, faces, cameras = random_scene(2)
    want = rasterize(points, faces, cameras, SIZE)
    copies = points.clone(), faces.clone(), cameras.clone()
    scattered = points.mT.contiguous().mT.requires_grad_()
    out = rasterize(scattered, faces.T.contiguous().T, cameras.mT.contiguous().mT, SIZE)
    for a, b in zip(want, out, strict=True):
        assert torch.equal(a, b)
    assert not out.depth.requires_grad
    for a, b in zip(copies, (points, faces, cameras), strict=True):
        assert torch.equal(a, b)
    assert rasterize(points.half(), faces, cameras, SIZE).depth.dtype == torch.float32


INTERPRETED = """
import torch
from tests.render.test_raster import SIZE, assert_same, random_scene, square
from monopose.render import Fragments, rasterize_reference
from monopose.render.raster_triton import rasterize
for dtype in (torch.float32, torch.float64):
    points, faces, K = random_scene(4, faces=8, dtype=dtype)
    faces[3] = -1
    small = K.clone()
    small[:, :2] /= 4
    out = Fragments(*rasterize(points, faces[None], small, (12, 16), 0.05))
    assert (points[..., 2] < 0.05).any() and (out.face >= 0).sum() > 100
    assert_same(out, rasterize_reference(points, faces, small, (12, 16), 0.05), 1e-6 if dtype == torch.float32 else 1e-13)
points, faces = square(3, 0.7)
points[:, :2] /= 4
out = rasterize(points[None].expand(len(faces), -1, -1), faces[:, None], torch.eye(3).expand(len(faces), 3, 3), (10, 10), 0.01)
hits = (out[0] >= 0).sum(0)
assert (hits[:9, :9] == 1).all(), hits
"""


@pytest.mark.slow
def test_triton_kernel_in_its_interpreter_matches_reference():
    pytest.importorskip("triton")
    root = Path(__file__).parents[2]
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=env, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_triton_kernel_on_cuda_matches_the_cpu(dtype):
    for seed in range(6):
        points, faces, cameras = random_scene(seed, dtype=dtype)
        cpu = rasterize(points, faces, cameras, SIZE, near=0.05)
        gpu = rasterize(points.cuda(), faces.cuda(), cameras.cuda(), SIZE, near=0.05)
        assert_same(cpu, Fragments(*(t.cpu() for t in gpu)), 1e-6 if dtype == torch.float32 else 1e-12, 1e-3)
    points, faces = square(40)
    out = rasterize(points[None].expand(len(faces), -1, -1).cuda(), faces[:, None].cuda(), torch.eye(3).cuda(), (40, 40))
    assert bool(((out.face >= 0).sum(0) == 1).all())
