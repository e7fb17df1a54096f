"""Maps: interpolation, coordinates, normals, textures and shading against closed forms."""

import math

import pytest
import torch
import trimesh

from monopose.geometry import rotation, se3
from monopose.render import (
    Lights,
    coordinates,
    interpolate,
    normals,
    positions,
    rasterize,
    sample_texture,
    shade,
)

SIZE = (40, 48)
DTYPES = [torch.float32, torch.float64]


def camera(dtype=torch.float32):
    return torch.tensor([[50.0, 1.0, 23.3], [0.0, 45.0, 19.1], [0.0, 0.0, 1.0]], dtype=dtype)


def sphere(dtype=torch.float32, subdivisions=3):
    """Two views of a sphere with radius 0.1: vertices, faces, points in the camera frame (2, V, 3), poses (2, 4, 4)."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.1)
    vertices, faces = torch.tensor(mesh.vertices, dtype=dtype), torch.tensor(mesh.faces)
    R = rotation.random_rotations(2, torch.Generator().manual_seed(0), dtype)
    poses = se3.from_rt(R, torch.tensor([[0.02, 0.01, 0.4], [-0.03, 0.0, 0.5]], dtype=dtype))
    return vertices, faces, se3.transform(poses, vertices), poses


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_attributes_are_reproduced_exactly(dtype):
    vertices, faces, points, _ = sphere(dtype)
    out = rasterize(points, faces, camera(dtype), SIZE)
    A = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    on_surface = out.face >= 0
    assert on_surface.sum() > 400
    mapped = interpolate(out, faces, points @ A)
    want = positions(out.depth, camera(dtype)) @ A
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(mapped[on_surface], want[on_surface], atol=tolerance, rtol=0)
    assert bool((mapped[~on_surface] == 0).all())
    assert mapped.shape == (2, *SIZE, 5)
    shared = interpolate(out, faces, vertices)
    torch.testing.assert_close(shared[1:], interpolate(type(out)(*(t[1:] for t in out)), faces, vertices))


def test_each_image_may_have_its_own_faces():
    vertices, faces, points, _ = sphere()
    both = torch.stack([faces, faces.flip(0)])
    out = rasterize(points, both, camera(), SIZE)
    torch.testing.assert_close(
        coordinates(out, both, vertices),
        coordinates(rasterize(points, faces, camera(), SIZE), faces, vertices),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_coordinates_moved_by_the_pose_are_the_points_of_the_depth_map(dtype):
    vertices, faces, points, poses = sphere(dtype)
    out = rasterize(points, faces, camera(dtype), SIZE)
    hit = out.face >= 0
    moved = se3.transform(poses, coordinates(out, faces, vertices).flatten(1, 2)).reshape(2, *SIZE, 3)
    seen = positions(out.depth, camera(dtype).expand(2, 3, 3))
    torch.testing.assert_close(moved[hit], seen[hit], atol=1e-6 if dtype == torch.float32 else 1e-14, rtol=0)
    assert bool((seen[~hit] == 0).all())


def test_gradient_reaches_the_attributes():
    _, faces, points, _ = sphere(torch.float64, 1)
    out = rasterize(points[:1], faces, camera(torch.float64) / torch.tensor([[5.0], [5.0], [1.0]]), (8, 10))
    assert (out.face >= 0).sum() > 5
    attributes = torch.randn(42, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: interpolate(out, faces, a), attributes)
    nothing = out._replace(face=torch.full_like(out.face, -1))
    assert torch.autograd.gradcheck(lambda a: interpolate(nothing, faces, a), attributes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inside_out", [False, True])
def test_normals_of_a_sphere_point_away_from_its_centre(dtype, inside_out):
    vertices, faces, points, poses = sphere(dtype)
    order = faces.flip(1) if inside_out else faces
    out = rasterize(points, order, camera(dtype), SIZE)
    hit = out.face >= 0
    radial = positions(out.depth, camera(dtype)) - poses[:, None, None, :3, 3]
    radial = torch.nn.functional.normalize(radial, dim=-1)
    smooth = vertices / 0.1 * (-1 if inside_out else 1) @ poses[:, :3, :3].mT
    for result, degrees in ((normals(out, order, points, smooth), 1.0), (normals(out, order, points), 9.0)):
        torch.testing.assert_close(result[hit].norm(dim=-1), torch.ones(int(hit.sum()), dtype=dtype))
        core = hit & ((radial * torch.nn.functional.normalize(positions(out.depth, camera(dtype)), dim=-1)).sum(-1) < -0.2)
        angle = torch.rad2deg(torch.acos((result * radial).sum(-1)[core].clamp(-1, 1)))
        assert angle.max() < degrees
        assert bool((result[~hit] == 0).all())


def test_flat_normals_of_a_tiny_face_are_not_lost():
    points = torch.tensor([[[-1e-6, -1e-6, 1e-2], [1e-6, -1e-6, 1e-2], [0.0, 1e-6, 1e-2]]])
    K = torch.tensor([[1e5, 0.0, 5.0], [0.0, 1e5, 5.0], [0.0, 0.0, 1.0]])
    faces = torch.tensor([[0, 1, 2]])
    out = rasterize(points, faces, K, (11, 11), near=1e-3)
    assert (out.face >= 0).sum() > 20
    torch.testing.assert_close(normals(out, faces, points)[out.face >= 0][0], torch.tensor([0.0, 0.0, -1.0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_texture_has_its_origin_at_the_lower_left_and_repeats(dtype):
    texture = torch.arange(2 * 3 * 4, dtype=dtype).reshape(2, 3, 4)
    corners = torch.tensor([[0.5 / 4, 0.5 / 3], [3.5 / 4, 0.5 / 3], [0.5 / 4, 2.5 / 3], [1.5 / 4, 1.5 / 3]], dtype=dtype)
    want = torch.stack([texture[:, 2, 0], texture[:, 2, 3], texture[:, 0, 0], texture[:, 1, 1]])
    torch.testing.assert_close(sample_texture(texture, corners), want, atol=1e-5, rtol=0)
    torch.testing.assert_close(sample_texture(texture, corners + torch.tensor([-3, 2])), want, atol=1e-4, rtol=0)
    halfway = sample_texture(texture, torch.tensor([0.0, 0.5 / 3], dtype=dtype))  # across the seam
    torch.testing.assert_close(halfway, (texture[:, 2, 0] + texture[:, 2, 3]) / 2, atol=1e-5, rtol=0)


def test_texture_agrees_with_grid_sample_away_from_the_seam():
    g = torch.Generator().manual_seed(0)
    texture = torch.rand(3, 16, 24, generator=g)
    uv = torch.rand(7, 9, 2, generator=g) * 0.9 + 0.05
    grid = torch.stack([uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2], -1)
    want = torch.nn.functional.grid_sample(texture[None], grid[None], align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(sample_texture(texture, uv), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shading_follows_lambert_and_blinn(dtype):
    red = torch.tensor([[0.8, 0.4, 0.2]], dtype=dtype)
    up = torch.tensor([[0.0, 0.0, -1.0]], dtype=dtype)
    at = torch.tensor([[0.0, 0.0, 2.0]], dtype=dtype)
    angle = math.radians(60)
    slanted = torch.tensor([[math.sin(angle), 0.0, -math.cos(angle)]])
    none, white = torch.zeros(0, 3), torch.ones(1, 3)

    def look(**kwargs):
        lights = Lights(**{"ambient": torch.zeros(3), "directions": none, "direction_colors": none, **kwargs})
        return lambda *material: shade(red, up, at, lights, *material)

    torch.testing.assert_close(look(ambient=torch.tensor([0.5, 1.0, 0.0]))(), red * torch.tensor([0.5, 1.0, 0.0]).to(red))
    torch.testing.assert_close(look(directions=slanted, direction_colors=white)(), red * 0.5)
    torch.testing.assert_close(look(directions=slanted * 7, direction_colors=white)(), red * 0.5)
    torch.testing.assert_close(look(directions=-slanted, direction_colors=white)(1.0), red * 0)  # light from behind
    # a point light 1 m above and sqrt(3) m beside the point stands at 60 degrees as well
    torch.testing.assert_close(look(positions=torch.tensor([[3**0.5, 0.0, 1.0]]), position_colors=white)(), red * 0.5)
    # the half vector of a light at 60 degrees and a camera straight above leans by 30 degrees
    shiny = look(directions=slanted, direction_colors=white)(0.3, 10.0)
    torch.testing.assert_close(shiny, red * 0.5 + 0.3 * math.cos(math.radians(30)) ** 10)
    both = look(directions=slanted, direction_colors=white, positions=at.float() * 0, position_colors=white * 0.1)()
    torch.testing.assert_close(both, red * 0.6)
    torch.testing.assert_close(shade(red, up, at), red)  # the default headlight
    assert both.dtype == dtype


def test_each_image_of_a_batch_may_have_its_own_lights():
    g = torch.Generator().manual_seed(1)
    albedo, n, p = (torch.rand(2, 5, 6, 3, generator=g) for _ in range(3))
    n, p = torch.nn.functional.normalize(n - 0.5, dim=-1), p + torch.tensor([0.0, 0.0, 1.0])
    values = [torch.randn(2, *shape, generator=g) for shape in ((3,), (2, 3), (2, 3), (1, 3), (1, 3))]
    batch = shade(albedo, n, p, Lights(*values), torch.tensor([0.1, 0.5])[:, None, None, None])
    for i in range(2):
        single = shade(albedo[i], n[i], p[i], Lights(*(v[i] for v in values)), (0.1, 0.5)[i])
        torch.testing.assert_close(batch[i], single)


def test_nothing_visible_gives_empty_maps():
    vertices, faces, points, _ = sphere()
    out = rasterize(points + torch.tensor([9.0, 0.0, 0.0]), faces, camera(), SIZE)
    assert not bool(coordinates(out, faces, vertices).any() or normals(out, faces, points).any())
    assert coordinates(type(out)(*(t[:0] for t in out)), faces, vertices).shape == (0, *SIZE, 3)
    assert sample_texture(torch.rand(3, 4, 4), torch.zeros(0, 2)).shape == (0, 3)
