"""Heads that sample where they choose: against loops, with gradients, and what the published sizes come to."""

import itertools
import math

import pytest
import torch

from monopose.road import sampler as deformable


def bilinear(plane, u, v):
    """The value of (h, w) at column u and row v, cells outside zero; written out."""
    h, w = plane.shape
    total = plane.new_zeros(())
    first, left = math.floor(float(v.detach())), math.floor(float(u.detach()))
    for row, column in itertools.product((first, first + 1), (left, left + 1)):
        if 0 <= row < h and 0 <= column < w:
            total = total + plane[row, column] * (1 - abs(v - row)) * (1 - abs(u - column))
    return total


def looped(maps, pixels, stride):
    B, R, H, P, _ = pixels.shape
    D = maps.shape[1] // H
    rows = []
    for b, r, h, p in itertools.product(range(B), range(R), range(H), range(P)):
        u, v = (pixels[b, r, h, p] + 0.5) / stride - 0.5  # with their gradients
        rows.append(torch.stack([bilinear(maps[b, h * D + d], u, v) for d in range(D)]))
    return torch.stack(rows).reshape(B, R, H, P, D)


def test_samples_are_those_of_a_loop_with_the_same_gradients():
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2 * 3, 5, 7, generator=g, dtype=torch.float64, requires_grad=True)
    # in the map, on its border and outside
    pixels = (torch.rand(2, 3, 2, 4, 2, generator=g, dtype=torch.float64) * torch.tensor([70.0, 50.0]) - 5).requires_grad_()
    found, expected = deformable.sample(maps, pixels, 8), looped(maps, pixels, 8)
    assert tuple(found.shape) == (2, 3, 2, 4, 3)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=g, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(found, (maps, pixels), upstream),
        torch.autograd.grad(expected, (maps, pixels), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda m, x: deformable.sample(m, x, 8), (maps, pixels))


def test_far_outside_there_is_nothing():
    maps = torch.ones(1, 2, 4, 4)
    assert float(deformable.sample(maps, torch.tensor([[[[[-100.0, 5.0], [200.0, 5.0]]]]]), 8).abs().max()) == 0


def network(width=32, heads=4, points=6):
    torch.manual_seed(0)
    dense = deformable.DenseFeatures(8, (16, 8), width, 2)
    sampler = deformable.DeformableSampler(width, heads, points, 64, 0.0)
    levels = [torch.randn(2, 8, 6, 10), torch.randn(2, 8, 3, 5)]
    return dense(levels, 8), sampler


def test_objects_start_with_a_star_of_points_as_large_as_their_level():
    dense, sampler = network()
    reference = torch.tensor([[[30.0, 20.0], [50.0, 25.0]]] * 2)
    strides = torch.tensor([[8.0, 16.0]] * 2)
    seen = sampler(torch.randn(2, 2, 32), reference, strides, dense)
    away = seen.pixels - reference[:, :, None, None]
    torch.testing.assert_close(away[:, 1], 2 * away[:, 0], atol=1e-4, rtol=1e-4)
    distance = away[0, 0].norm(dim=-1) / 8
    torch.testing.assert_close(distance, ((torch.arange(6) + 0.5) * 0.5).expand(4, 6), atol=1e-4, rtol=1e-4)
    angle = torch.atan2(away[0, 0, :, 0, 1], away[0, 0, :, 0, 0]).rad2deg()
    torch.testing.assert_close(angle, torch.tensor([45.0, 135.0, -135.0, -45.0]), atol=1e-2, rtol=0)
    inside = ((seen.pixels >= -0.5) & (seen.pixels <= torch.tensor([79.5, 47.5]))).all(-1)
    assert torch.equal(seen.inside, inside)
    assert not bool(seen.inside.all())


def test_the_embedding_becomes_a_weighted_sum_of_what_was_seen():
    dense, sampler = network()
    embedding = torch.randn(2, 3, 32)
    seen = sampler(embedding, torch.rand(2, 3, 2) * 40, torch.full((2, 3), 8.0), dense)
    key, value = looped(dense.key, seen.pixels, 8), looped(dense.value, seen.pixels, 8)
    torch.testing.assert_close(seen.features, value, atol=1e-5, rtol=1e-5)
    joined = torch.zeros(2, 3, 32)
    for b, r, h in itertools.product(range(2), range(3), range(4)):
        weight = (key[b, r, h] @ seen.query[b, r, h] / math.sqrt(8)).softmax(0)
        joined[b, r, 8 * h : 8 * h + 8] = weight @ value[b, r, h]
    x = sampler.norm1(embedding + sampler.out(joined))
    torch.testing.assert_close(seen.objects, sampler.norm2(x + sampler.feed(x)), atol=1e-5, rtol=1e-5)


def test_offsets_learn_at_a_tenth_of_the_rate():
    dense, sampler = network()
    embedding, reference, strides = torch.zeros(2, 1, 32), torch.full((2, 1, 2), 20.0), torch.full((2, 1), 8.0)
    before = sampler(embedding, reference, strides, dense).pixels
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.01)
    before.sum().backward()
    optimizer.step()
    after = sampler(embedding, reference, strides, dense).pixels
    torch.testing.assert_close(before - after, torch.full_like(after, 0.1 * 0.01 * 8), atol=1e-4, rtol=1e-2)


def test_the_code_of_a_place_is_that_of_the_cell_there():
    code = deformable.sine_code((3, 5), 16, torch.device("cpu"), torch.float64)
    place = torch.tensor([[(3 + 0.5) / 5, (1 + 0.5) / 3]], dtype=torch.float64)
    torch.testing.assert_close(deformable._point_code(place, 16)[0], code[:, 1, 3])
    flat = code.flatten(1).T
    assert float(torch.cdist(flat, flat).fill_diagonal_(1).min()) > 0.1  # every cell has its own


def test_points_know_the_others_of_their_object_only():
    torch.manual_seed(0)
    head = deformable.PointHead(8, 4, 32)
    tokens, places = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 2)
    said = head(tokens, places)
    assert tuple(said.shape) == (1, 2, 4, 3, 5)
    changed = tokens.clone()
    changed[0, 1, 5] += 1
    again = head(changed, places)
    assert torch.equal(again[0, 0], said[0, 0])
    assert float((again[0, 1, 0, 0] - said[0, 1, 0, 0]).abs().max()) > 0
    # other pixels ask the same points; asked about the points themselves the answer is the same
    torch.testing.assert_close(head(tokens, places, tokens, places), said)


@pytest.mark.parametrize("heads", [4, 8])
def test_heads_start_half_way_to_different_corners(heads):
    bias = deformable.PointHead(8, heads, 16).bias.detach()
    assert set(bias[:, :3].flatten().tolist()) == {-0.25, 0.25}
    assert len({tuple(row) for row in bias[:, :3].tolist()}) == heads
    assert float(bias[:, :3].sum(0).abs().max()) == 0  # around the middle
    assert float(bias[:, 3:].abs().max()) == 0


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(ValueError, match="got 30 and 4 heads"):
        deformable.DeformableSampler(30, 4, 8, 16)


def test_object_answers_hold_what_was_asked_for():
    x = torch.randn(2, 3, 16)
    points = deformable.ObjectHead(16, 8, 9, 2.0)(x)
    assert tuple(points.direct.shape) == (2, 3, 0)
    torch.testing.assert_close(points.log_scale, torch.full((2, 3, 2), 2.0))
    direct = deformable.ObjectHead(16, 8, 9, None)(x)
    assert tuple(direct.direct.shape) == (2, 3, 5)
    assert direct.log_scale.numel() == 0
