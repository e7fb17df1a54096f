"""Coordinates as distributions over bins of [-1, 1]: reading them, and the cross-entropy that teaches them."""

import torch
from torch import Tensor


def bin_centres(bins: int, like: Tensor) -> Tensor:
    """Normalised coordinates that the bins stand for, (bins,), from -1 to 1."""
    return torch.linspace(-1, 1, bins, dtype=like.dtype, device=like.device)


def decode(bins: Tensor, reach: int = 2) -> Tensor:
    """The coordinate that the likeliest bin and its neighbours agree on.

    The mean over all bins would lie between the candidates where the network hesitates, and shrink the object; the mode does
    not. Differentiable in the logits.

    Args:
        bins: logits, (B, 3, bins, h, w).
        reach: how many bins on either side of the best one are averaged.

    Returns:
        (B, 3, h, w), in [-1, 1].
    """
    best = bins.argmax(2, keepdim=True)
    index = torch.arange(bins.shape[2], device=bins.device)[None, None, :, None, None]
    near = (index - best).abs() <= reach
    weights = bins.masked_fill(~near, -torch.inf).softmax(2)
    return (weights * bin_centres(bins.shape[2], bins)[None, None, :, None, None]).sum(2)


def cross_entropy(bins: Tensor, target: Tensor) -> Tensor:
    """Of each pixel's three coordinates, the truth shared between the two nearest bins.

    (B, 3, bins, h, w) logits, (B, 3, h, w) in [-1, 1] -> (B, h, w).
    """
    count = bins.shape[2]
    place = (target.clamp(-1, 1) + 1) / 2 * (count - 1)
    low = place.floor().long().clamp_max(count - 2)
    share = (place - low)[:, :, None]
    log = bins.log_softmax(2)
    near = log.gather(2, low[:, :, None]) * (1 - share) + log.gather(2, low[:, :, None] + 1) * share
    return -near.squeeze(2).mean(1)
