"""Depthwise convolution with its own gradient of the weights: against PyTorch's, and by finite differences."""

import pytest
import torch
import torch.nn.functional as F

from monopose.nets.backbones import _SameConv
from monopose.nets.depthwise import depthwise, weight_gradient


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [((7, 9), 5, 1, 2), ((11, 8), 5, 2, 0), ((3, 3), 5, 1, 2), ((6, 7), 3, 2, 1)]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_gradients_are_those_of_the_grouped_convolution(size, kernel, stride, padding, threads):
    make = torch.Generator().manual_seed(0)
    x = torch.randn(3, 20, *size, generator=make).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(20, 1, kernel, kernel, generator=make).requires_grad_()
    expected = F.conv2d(x, weight, None, stride, padding, 1, 20)
    g = torch.randn(expected.shape, generator=make)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = depthwise(x, weight, stride, padding)
        gx, gw = torch.autograd.grad(found, (x, weight), g)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected)
    for a, b in zip((gx, gw), torch.autograd.grad(expected, (x, weight), g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_the_weights_by_finite_differences():
    """The output is linear in the weights: moving one of them moves the sum of output times g by exactly its gradient."""
    make = torch.Generator().manual_seed(1)
    x, weight = torch.randn(2, 3, 6, 5, generator=make, dtype=torch.float64), torch.zeros(3, 1, 5, 5, dtype=torch.float64)
    g = torch.randn(2, 3, 6, 5, generator=make, dtype=torch.float64)
    found = weight_gradient(g, x, 5, 1, 2, 2)
    for c, i, j in ((0, 0, 0), (1, 2, 2), (2, 4, 1)):
        weight.zero_()[c, 0, i, j] = 1.0
        torch.testing.assert_close(
            found[c, 0, i, j].double(), (F.conv2d(x, weight, None, 1, 2, 1, 3) * g).sum(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("half", [False, True])
def test_backbones_learn_as_in_full_precision(kernel, stride, half):
    """A layer of the backbone, padded as it pads, under autocast and without: gradients up to the precision of bfloat16."""
    torch.manual_seed(0)
    layer = _SameConv(16, 16, kernel, stride, 16)
    x = torch.randn(2, 16, 9, 12).contiguous(memory_format=torch.channels_last).requires_grad_()
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (9, 12)]
    padded = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
    expected = F.conv2d(padded, layer.weight, None, stride, 0, 1, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = layer(x)
    g = torch.randn(expected.shape)
    bound = {"rtol": 0.02, "atol": 0.1} if half else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found.float(), expected, **bound)
    own = torch.autograd.grad(found, (x, layer.weight), g.to(found.dtype))
    for a, b in zip(own, torch.autograd.grad(expected, (x, layer.weight), g), strict=True):
        torch.testing.assert_close(a, b, **bound)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
