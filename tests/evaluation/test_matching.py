"""Correlation, its pyramid and the look-up, against a loop and against torchvision's RAFT; the features of both pictures."""

import torch
import torch.nn.functional as F
from torchvision.models.optical_flow.raft import CorrBlock

from monopose.objects import refiner_networks


def features(seed, size=2, channels=6, h=8, w=12, dtype=torch.float64):
    return torch.randn(size, channels, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def centres(seed, size=2, h=8, w=12, spread=3.0):
    grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1).double()
    return grid + spread * torch.randn(size, h, w, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bilinear(values, x, y):
    """One value of a (H, W) tensor between pixels, 0 outside; written out."""
    x0, y0 = int(torch.floor(x)), int(torch.floor(y))
    total = 0.0
    for row, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                total = total + wx * wy * values[row, column]
    return float(total)


def test_the_pyramid_is_scalar_products_and_their_means():
    a, b = features(0), features(1)
    pyramid = refiner_networks.correlation(a, b, 3)
    assert [tuple(v.shape) for v in pyramid] == [(192, 1, 8, 12), (192, 1, 4, 6), (192, 1, 2, 3)]
    for image, row, column, y, x in ((0, 0, 0, 0, 0), (1, 7, 11, 3, 8), (1, 2, 5, 7, 0)):
        expected = (a[image, :, row, column] * b[image, :, y, x]).sum() / 6**0.5
        at = image * 96 + row * 12 + column
        torch.testing.assert_close(pyramid[0][at, 0, y, x], expected)
        block = pyramid[0][at, 0, y // 4 * 4 : y // 4 * 4 + 4, x // 4 * 4 : x // 4 * 4 + 4]
        torch.testing.assert_close(pyramid[2][at, 0, y // 4, x // 4], block.mean())


def test_look_up_against_a_loop():
    """Level l has its cells where the mean of 2^l x 2^l fine ones lies: half cells count."""
    pyramid, at, radius = refiner_networks.correlation(features(2), features(3), 3), centres(4), 2
    found = refiner_networks.look_up(pyramid, at, radius)
    assert found.shape == (2, 3 * 25, 8, 12)
    generator = torch.Generator().manual_seed(5)
    for _ in range(60):
        image, row, column, level, dy, dx = (int(torch.randint(n, (), generator=generator)) for n in (2, 8, 12, 3, 5, 5))
        x, y = ((at[image, row, column] + 0.5) / 2**level - 0.5) + torch.tensor([dx - radius, dy - radius])
        expected = bilinear(pyramid[level][image * 96 + row * 12 + column, 0], x, y)
        channel = level * 25 + dy * 5 + dx
        assert abs(float(found[image, channel, row, column]) - expected) < 1e-9


def test_look_up_is_that_of_torchvision():
    """RAFT takes c / 2^l on level l, half a cell of the coarse level beside the mean's place; given that, all is equal."""
    a, b, at, radius = features(6).float(), features(7).float(), centres(8).float(), 3
    theirs = CorrBlock(num_levels=3, radius=radius)
    theirs.build_pyramid(a, b)
    pyramid = refiner_networks.correlation(a, b, 3)
    for level, volume in enumerate(theirs.corr_pyramid):
        torch.testing.assert_close(pyramid[level], volume)
        moved = at + 0.5 - 0.5 * 2**level
        with_x_slow = theirs.index_pyramid(moved.movedim(-1, 1)).unflatten(1, (3, 7, 7))[:, level]
        ours = refiner_networks.look_up(pyramid, at, radius).unflatten(1, (3, 7, 7))[:, level]
        torch.testing.assert_close(ours.transpose(1, 2), with_x_slow, atol=1e-5, rtol=1e-4)


def test_the_best_fit_of_a_shifted_picture_is_found_at_the_shift():
    """Columns are x: a picture moved 2 to the right and 1 down correlates there on every level."""
    a = F.normalize(features(9, 1, 64, 16, 16), dim=1)
    b = torch.roll(a, (1, 2), (2, 3))
    grid = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="xy"), -1)[None].double()
    found = refiner_networks.look_up(refiner_networks.correlation(a, b, 1), grid, 3)[0, :, 3:13, 3:13]
    best = found.argmax(0)
    assert bool((best == (3 + 1) * 7 + (3 + 2)).all())


def test_sample_is_exact_at_pixels_and_zero_outside():
    maps = features(10, 1, 3, 5, 7)
    pixels = torch.tensor([[[[0.0, 0.0], [6.0, 4.0], [3.5, 2.0], [-1.0, 0.0], [7.0, 4.0], [1e6, -1e6]]]]).double()
    found = refiner_networks.sample(maps, pixels)[0, :, 0]
    expected = [maps[0, :, 0, 0], maps[0, :, 4, 6], (maps[0, :, 2, 3] + maps[0, :, 2, 4]) / 2, *[torch.zeros(3).double()] * 3]
    torch.testing.assert_close(found, torch.stack(expected, 1))


def test_places_stay_exact_in_half_precision():
    """Under autocast features are multiplied as float32 and read at float32 places: bfloat16 would move them by a quarter
    of a crop pixel."""
    a, b, at = features(11).float(), features(12).float(), centres(13).float()
    plain = refiner_networks.look_up(refiner_networks.correlation(a, b, 2), at, 2)
    with torch.autocast("cpu", torch.bfloat16):
        half = refiner_networks.look_up(refiner_networks.correlation(a, b, 2), at, 2)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain)


def test_features_have_stride_four_and_do_not_mix_pictures():
    torch.manual_seed(0)
    net = refiner_networks.FeatureNet("efficientnet_lite0", 2, (16, 16, 16), 12, False, 0).eval()
    images, index = torch.rand(3, 3, 64, 96), torch.tensor([1, 0, -1])
    with torch.no_grad():
        every = net(images, index)
        assert every.shape == (3, 12, 16, 24)
        for i in range(3):
            torch.testing.assert_close(every[i], net(images[i : i + 1], index[i : i + 1])[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(every.square().mean(1), torch.ones(3, 16, 24))
        assert float((net(images[:1], index[1:2]) - every[:1]).abs().max()) > 1e-3  # it matters which object is looked for


def test_expected_is_where_the_look_up_is_largest():
    """A peak two columns right and one row down of level l is two and one times 2^l cells away; no peak, no motion."""
    looked = torch.zeros(1, 2, 7, 7, 3, 4)
    looked[:, :, 3 + 1, 3 + 2] = 1.0
    looked = looked.flatten(1, 3)
    found = refiner_networks.expected(looked, 2, 3, torch.tensor(100.0))
    for level in range(2):
        expected = torch.tensor([2.0, 1.0])[:, None, None].expand(2, 3, 4) * 2**level
        torch.testing.assert_close(found[0, level], expected)
    still = refiner_networks.expected(looked, 2, 3, torch.tensor(0.0))
    torch.testing.assert_close(still, torch.zeros(1, 2, 2, 3, 4), rtol=0, atol=1e-6)
