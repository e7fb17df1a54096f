"""Coordinates as distributions over bins of [-1, 1]: reading them, and the cross-entropy that teaches them."""

import numpy as np
import torch
from torch import Tensor

from .. import compiled


def bin_centres(bins: int, like: Tensor) -> Tensor:
    """Normalised coordinates that the bins stand for, (bins,), from -1 to 1."""
    return torch.linspace(-1, 1, bins, dtype=like.dtype, device=like.device)


def _best(bins: Tensor) -> Tensor:
    """`bins.argmax(2)`, (B, 3, bins, h, w) -> (B, 3, h, w)."""
    if bins.device.type != "cpu" or bins.dtype != torch.bfloat16:
        return bins.argmax(2)
    # bfloat16 sorts as its bits do, as integers with all but the sign flipped where it is negative
    rows = bins.permute(0, 3, 4, 1, 2).view(torch.int16).numpy()
    best = np.empty(rows.shape[:-1], np.int64)
    _largest(rows, best)
    return torch.from_numpy(best).permute(0, 3, 1, 2)


@compiled.kernel(boundscheck=False)
def _largest(rows, best):
    """Position of the largest of each row, the first of equal ones. (B, h, w, 3, bins) int16, (B, h, w, 3) int64."""
    for b in range(rows.shape[0]):
        for y in range(rows.shape[1]):
            for x in range(rows.shape[2]):
                for c in range(rows.shape[3]):
                    most, at = np.int16(-32768), 0
                    for k in range(rows.shape[4]):
                        value = rows[b, y, x, c, k]
                        value ^= (value >> 15) & 0x7FFF
                        if value > most:
                            most, at = value, k
                    best[b, y, x, c] = at


def decode(bins: Tensor, reach: int = 2) -> Tensor:
    """The coordinate that the likeliest bin and its neighbours agree on.

    The mean over all bins would lie between the candidates where the network hesitates, and shrink the object; the mode does
    not. Differentiable in the logits.

    Args:
        bins: logits, (B, 3, bins, h, w).
        reach: how many bins on either side of the best one are averaged; logits in half precision are read as float32.

    Returns:
        (B, 3, h, w), in [-1, 1].
    """
    count = bins.shape[2]
    steps = torch.arange(-reach, reach + 1, device=bins.device)[None, None, :, None, None]
    index = _best(bins.detach())[:, :, None] + steps
    near = bins.gather(2, index.clamp(0, count - 1))
    near = near.float() if near.dtype == torch.bfloat16 else near
    weights = near.masked_fill((index < 0) | (index >= count), -torch.inf).softmax(2)
    return (weights * (index * (2 / (count - 1)) - 1)).sum(2)


def cross_entropy(bins: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
    """Of each pixel's three coordinates, the truth shared between the two nearest bins.

    Args:
        bins: logits, (B, 3, bins, h, w); half precision becomes float32.
        target: in [-1, 1], (B, 3, h, w).
        where: pixels that count, (B, h, w), bool, or None for all; the others cost nothing and take no time.

    Returns:
        (B, h, w), 0 outside of `where`.
    """
    count = bins.shape[2]
    where = torch.ones_like(target[:, 0], dtype=torch.bool) if where is None else where
    pixels = where.flatten().nonzero().squeeze(1)
    # one row of memory per pixel, where the network puts its channels last
    rows = bins.permute(0, 3, 4, 1, 2).flatten(0, 2).index_select(0, pixels)  # (n, 3, bins)
    place = (target.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, pixels).clamp(-1, 1) + 1) / 2 * (count - 1)
    low = place.floor().long().clamp_max(count - 2)[..., None]
    share = place[..., None] - low
    log = (rows.float() if rows.dtype == torch.bfloat16 else rows).log_softmax(-1)
    near = log.gather(-1, low) * (1 - share) + log.gather(-1, low + 1) * share
    cost = -near.squeeze(-1).mean(-1)
    return cost.new_zeros(where.numel()).index_copy(0, pixels, cost).view_as(where)
