"""Depthwise convolution that learns quickly on a CPU: PyTorch takes ten times as long for the gradient of its weights as for
everything else, so that gradient is summed here, over channels-last memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import compiled


@compiled.kernel(fastmath=True, boundscheck=False)
def _sum(g, x, stride, top, left, out):
    """Add the gradient of the weights to `out` (k, k, C), float32.

    g (B, h, w, C), of the output; x (B, H, W, C), the input; what lies beside x counts as 0. Float32 both.
    """
    batch, height, width, channels = x.shape
    rows, columns, k = g.shape[1], g.shape[2], out.shape[0]
    for b in range(batch):
        for r in range(rows):
            for i in range(max(0, top - r * stride), min(k, height + top - r * stride)):
                y = r * stride - top + i
                for j in range(k):
                    shift = j - left
                    first = max(0, -((shift) // stride))  # the first column whose place in x is not negative
                    last = min(columns, (width - 1 - shift) // stride + 1)
                    own = out[i, j]
                    c = first
                    while c + 4 <= last:  # four at a time: the sum goes through memory less often
                        at = c * stride + shift
                        g0, g1, g2, g3 = g[b, r, c], g[b, r, c + 1], g[b, r, c + 2], g[b, r, c + 3]
                        x0, x1, x2, x3 = x[b, y, at], x[b, y, at + stride], x[b, y, at + 2 * stride], x[b, y, at + 3 * stride]
                        for n in range(channels):
                            own[n] += g0[n] * x0[n] + g1[n] * x1[n] + g2[n] * x2[n] + g3[n] * x3[n]
                        c += 4
                    while c < last:
                        g0, x0 = g[b, r, c], x[b, y, c * stride + shift]
                        for n in range(channels):
                            own[n] += g0[n] * x0[n]
                        c += 1


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _rows(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C), contiguous, float32."""
    return x.detach().permute(0, 2, 3, 1).float().contiguous().numpy()  # type: ignore[no-any-return]


def weight_gradient(gradient: Tensor, x: Tensor, kernel: int, stride: int, top: int, left: int) -> Tensor:
    """The gradient of a depthwise convolution's weights, on the CPU, as many threads as torch has.

    Args:
        gradient: of the output, (B, C, h, w).
        x: the input, (B, C, H, W); around it lie zeros.
        kernel: side of the kernel k, odd.
        stride: 1 or more.
        top, left: zeros above and to the left.

    Returns:
        (C, 1, k, k), float32.
    """
    g, rows = _rows(gradient), _rows(x)
    edges = np.linspace(0, len(rows), min(torch.get_num_threads(), len(rows)) + 1).round().astype(int)
    out = np.zeros((len(edges) - 1, kernel, kernel, rows.shape[3]), np.float32)

    def part(n: int) -> None:
        here = slice(edges[n], edges[n + 1])
        _sum(g[here], rows[here], stride, top, left, out[n])

    if len(out) == 1:
        part(0)
    else:
        list(_pool(len(out)).map(part, range(len(out))))
    return torch.from_numpy(out.sum(0)).permute(2, 0, 1)[:, None]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return torch.nn.functional.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        stride, padding = ctx.how
        gx = None
        if ctx.needs_input_grad[0]:
            gx, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight), [True, False, False]
            )
        gw = weight_gradient(gradient, x, weight.shape[-1], stride, padding, padding) if ctx.needs_input_grad[1] else None
        return gx, None if gw is None else gw.to(weight.dtype), None, None


def depthwise(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """`F.conv2d(x, weight, None, stride, padding, 1, C)` on a CPU, float32 or bfloat16, whose weights' gradient is quick.

    (B, C, H, W), (C, 1, k, k) -> (B, C, h, w); fastest with channels last; differentiable once.
    """
    return _Depthwise.apply(x, weight, stride, padding)  # type: ignore[no-any-return, no-untyped-call]
