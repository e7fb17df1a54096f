"""Projection, rays and crops: closed forms, and torch's own resize to the sub-pixel."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from monopose import Camera
from monopose.geometry import camera

F64 = torch.float64
K = torch.tensor([[572.4, 0.5, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=F64)


def cloud(n=30):
    X = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    X[:, 2] = X[:, 2].abs() + 0.3
    return X


def test_project_is_that_of_opencv():
    flat = K.clone()
    flat[0, 1] = 0
    expected, _ = cv2.projectPoints(cloud().numpy(), np.zeros(3), np.zeros(3), flat.numpy(), None)
    torch.testing.assert_close(camera.project(cloud(), flat), torch.from_numpy(expected[:, 0]), rtol=0, atol=1e-9)


def test_unproject_undoes_project():
    X = cloud()
    torch.testing.assert_close(camera.unproject(camera.project(X, K), X[:, 2], K), X, rtol=0, atol=1e-12)
    batch = K.expand(2, 3, 3, 3)
    assert camera.unproject(torch.zeros(2, 3, 5, 2, dtype=F64), torch.ones(2, 3, 5, dtype=F64), batch).shape == (2, 3, 5, 3)


def test_points_behind_project_to_finite_pixels():
    for z in (0.0, -1.0, -1e-9):
        X = torch.tensor([[0.1, 0.2, z]], requires_grad=True)
        pixels = camera.project(X, K.float())
        assert torch.isfinite(pixels).all()
        pixels.sum().backward()
        assert torch.isfinite(X.grad).all()


@pytest.mark.parametrize("z", [0.5, 1e-2, 1e3, -0.5])
def test_gradient_of_project(z):
    X = torch.tensor([[0.1, -0.2, z], [0.0, 0.0, z]], dtype=F64, requires_grad=True)
    Kg = K.clone().requires_grad_()
    assert gradcheck(lambda X, K: camera.project(X, K, 1e-3), (X, Kg), eps=1e-7, rtol=1e-4, atol=1e-2)


def test_rays_project_back_to_their_pixels():
    rays = camera.rays(K, (4, 6))
    assert rays.shape == (4, 6, 3)
    assert (rays[..., 2] == 1).all()
    torch.testing.assert_close(camera.project(rays.reshape(-1, 3), K).reshape(4, 6, 2), camera.pixel_grid((4, 6), dtype=F64))
    assert camera.rays(K.expand(5, 2, 3, 3), (4, 6)).shape == (5, 2, 4, 6, 3)


def test_pixel_grid_is_u_then_v():
    grid = camera.pixel_grid((2, 3))
    assert grid.shape == (2, 3, 2)
    assert grid[1, 2].tolist() == [2.0, 1.0]


def test_field_of_view():
    k = camera.K_from_fov(math.radians(90), (480, 640))
    assert k[0, 0].item() == pytest.approx(320)
    edges = torch.tensor([[-1.0, 0, 1], [1.0, 0, 1]])  # 45 degrees to either side meet the edges of the image
    assert camera.project(edges, k)[:, 0].tolist() == pytest.approx([-0.5, 639.5])
    for wrong in (0.0, math.pi, -1.0):
        with pytest.raises(ValueError, match="between 0 and 180 degrees"):
            camera.K_from_fov(wrong, (480, 640))


@pytest.mark.parametrize("size", [(12, 20), (48, 80), (30, 33), (24, 40)])
def test_whole_image_resize_is_torchs(size):
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0), dtype=F64)
    box = torch.tensor([[0.0, 0.0, 40.0, 24.0]], dtype=F64)
    ours = camera.crop_resize(image, box, size)
    torch_s = F.interpolate(image[None], size, mode="bilinear", align_corners=False)
    # at the very border torch repeats the last pixel, while here the outside is 0
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(ours[inner], torch_s[inner], rtol=0, atol=1e-12)


def test_crop_on_whole_pixels_is_a_slice_with_zeros_outside():
    image = torch.rand(2, 3, 10, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    boxes = torch.tensor([[3.0, 2.0, 8.0, 6.0], [-2.0, -1.0, 3.0, 3.0]], dtype=F64)
    for mode in ("bilinear", "nearest"):
        out = camera.crop_resize(image, boxes, (4, 5), mode)
        torch.testing.assert_close(out[0], image[0, :, 2:6, 3:8], rtol=0, atol=1e-12)
        torch.testing.assert_close(out[1, :, 1:, 2:], image[1, :, :3, :3], rtol=0, atol=1e-12)
        assert (out[1, :, 0].abs() < 1e-12).all()
        assert (out[1, :, :, :2].abs() < 1e-12).all()
    assert camera.crop_resize(image[0], boxes, (4, 5)).shape == (2, 3, 4, 5)
    assert camera.crop_resize(image[0].float(), boxes, (4, 5)).dtype == torch.float32


@pytest.mark.parametrize(
    "box, size",
    [((10.0, 5.0, 90.0, 65.0), (120, 160)), ((20.3, 3.1, 90.9, 70.7), (33, 91)), ((-9.5, -4.0, 110.0, 90.0), (64, 64))],
)
def test_image_and_intrinsics_move_together(box, size):
    """A smooth blob drawn at a projected point lies, after the crop, at the projection with the new intrinsics."""
    k = torch.tensor([[80.0, 0, 49.3], [0, 90.0, 39.1], [0, 0, 1.0]], dtype=F64)
    point = torch.tensor([[0.05, -0.04, 0.8]], dtype=F64)
    grid = camera.pixel_grid((80, 100), dtype=F64)
    blob = torch.exp(-(grid - camera.project(point, k)).square().sum(-1) / (2 * 4.0**2))
    box = torch.tensor([box], dtype=F64)
    cut = camera.crop_resize(blob[None], box, size)[0, 0]
    mass = cut / cut.sum()
    centre = (mass[..., None] * camera.pixel_grid(size, dtype=F64)).sum((0, 1))
    new = camera.crop_resize_K(k, box[0], size)
    torch.testing.assert_close(camera.project(point, new)[0], centre, rtol=0, atol=0.02)
    assert torch.equal(Camera(k, (80, 100)).crop_resize(box[0], size).K, new)


def test_crops_compose_and_keep_the_argument():
    first, second = torch.tensor([10.0, 20, 210, 120], dtype=F64), torch.tensor([5.0, 5, 55, 30], dtype=F64)
    before = K.clone()
    twice = camera.crop_resize_K(camera.crop_resize_K(K, first, (50, 100)), second, (75, 150))
    scale = 2.0  # 200 x 100 pixels became 100 x 50
    corner = torch.cat([first[:2] + second[:2] * scale, first[:2] + second[2:] * scale])
    torch.testing.assert_close(twice, camera.crop_resize_K(K, corner, (75, 150)))
    assert torch.equal(K, before)
    assert camera.crop_resize_K(K, first.expand(7, 4), (5, 5)).shape == (7, 3, 3)


def test_resized_camera_keeps_angles():
    c = Camera(K, (480, 640), torch.zeros(5, dtype=F64)).resized((240, 320))
    assert c.size == (240, 320)
    assert c.distortion is not None
    X = cloud()
    big = camera.project(X, K)
    torch.testing.assert_close(camera.project(X, c.K), (big + 0.5) / 2 - 0.5)


@pytest.mark.parametrize("size", [(120, 160), (900, 1200), (2600, 3400)])
def test_crops_of_pictures_of_any_size_show_the_same(size):
    """A picture whose colours grow evenly has, at every pixel of a crop, the colour at that pixel's centre."""
    height, width = size
    u, v = torch.arange(width) / width, torch.arange(height) / height
    image = torch.stack([u.expand(height, width), v[:, None].expand(height, width), torch.full(size, 0.25)])
    box = torch.tensor([[0.2 * width, 0.1 * height, 0.2 * width + 0.7 * height, 0.8 * height]])
    crop = camera.cut(image, box, 32)[0]
    at = camera.pixels(box, 32)[0]
    expected = torch.stack([at[..., 0] / width, at[..., 1] / height, torch.full((32, 32), 0.25)])
    torch.testing.assert_close(crop, expected, atol=0.004, rtol=0)


@pytest.mark.parametrize("factor", [1, 3, 12])
def test_crops_of_half_precision_are_computed_in_full(factor):
    image = torch.rand(3, 30 * factor, 40 * factor, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[2.5, 1.0, 22.5, 21.0], [-5.0, 0.0, 15.0, 20.0]]) * factor
    crops = camera.cut(image.half(), box, 20)
    assert crops.dtype == torch.float32
    torch.testing.assert_close(crops, camera.cut(image, box, 20), atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor", [1, 3, 12])
def test_crops_are_grey_outside_of_the_picture(factor):
    side = 40 * factor
    box = torch.tensor([[-0.5, -0.5, 0.5, 0.5], [2.0, 2.0, 3.0, 3.0], [0.0, 0.0, 1.0, 1.0]]) * side
    crops = camera.cut(torch.ones(3, side, side), box, 20)
    assert crops[0, :, :9, :9].mean() == pytest.approx(0.5, abs=1e-3)
    assert crops[0, :, 11:, 11:].mean() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(crops[1], torch.full((3, 20, 20), 0.5))
    torch.testing.assert_close(crops[2], torch.ones(3, 20, 20))


def test_the_crop_around_a_cube_is_a_square_about_its_projection():
    """A cube of 0.2 m whose near side lies at 0.9 m; f = 100: half of that side is 100 * 0.1 / 0.9 pixels long."""
    cube = torch.tensor([[x, y, z] for x in (-0.1, 0.1) for y in (-0.05, 0.05) for z in (-0.1, 0.1)])
    K = torch.tensor([[100.0, 0, 49.5], [0, 100.0, 29.5], [0, 0, 1]])
    pose = torch.eye(4).repeat(2, 1, 1)
    pose[:, 2, 3] = torch.tensor([1.0, 100.0])
    half = 100 * 0.1 / 0.9
    box = camera.crop_around(cube, pose, K, 1.5)
    torch.testing.assert_close(box[0], torch.tensor([50 - 1.5 * half, 30 - 1.5 * half, 50 + 1.5 * half, 30 + 1.5 * half]))
    far = camera.crop_around(cube, pose, K, 1.5, limits=(8.0, 20.0))
    torch.testing.assert_close(far[:, 2] - far[:, 0], torch.tensor([30.0, 12.0]))  # 22.2 and 0.2 pixels, cut to the limits
