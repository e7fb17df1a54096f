"""An object looks around: heads that sample a dense feature map where they choose, and say something about each sample.

Only `grid_sample` is needed. Objects of a batch are (B, R): R rows per image, of which the caller knows which count.

Source: Chen et al., EPro-PnP (CVPR 2022), sec. 4.2 and supplement, deformable correspondences; Zhu et al., Deformable DETR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CORNERS = (0, 3, 5, 6, 7, 4, 2, 1)  # of a cube, an order whose first four are a tetrahedron; bit k: positive side of axis k
SMALL = 0.1  # factor on what a query is made from
PERIOD = 10_000.0  # longest wavelength of the position code
SLOW = 0.1  # of the offsets, which under Adam makes their layer learn at a tenth of the rate, as published


def sine_code(size: tuple[int, int], channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sines and cosines of row and column, (channels, h, w). Source: Carion et al., DETR, sec. A.4.

    Args:
        size: (h, w) of the map.
        channels: a multiple of 4.
    """
    h, w = size
    v = (torch.arange(h, device=device, dtype=dtype) + 0.5) / h * 2 * math.pi
    u = (torch.arange(w, device=device, dtype=dtype) + 0.5) / w * 2 * math.pi
    count = channels // 4
    rate = PERIOD ** (torch.arange(count, device=device, dtype=dtype) / count)
    rows = torch.cat([(v[:, None] / rate).sin(), (v[:, None] / rate).cos()], 1).T[:, :, None].expand(-1, h, w)
    columns = torch.cat([(u[:, None] / rate).sin(), (u[:, None] / rate).cos()], 1).T[:, None, :].expand(-1, h, w)
    return torch.cat([rows, columns])


class Dense(NamedTuple):
    """What there is to sample: key and value (B, C, h, w), and the pixels that a cell of them is wide."""

    key: Tensor
    value: Tensor
    stride: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, pixels."""
        return self.key.shape[-2] * self.stride, self.key.shape[-1] * self.stride


class DenseFeatures(nn.Module):
    """Every level of a pyramid convolved, brought to the finest, joined; a key and a value for every cell of it.

    Args:
        inputs: channels of the levels.
        widths: channels of the convolutions of each level.
        width: channels of key and value.
        levels: how many.
    """

    def __init__(self, inputs: int, widths: Sequence[int], width: int, levels: int) -> None:
        super().__init__()
        self.width = width
        self.towers = nn.ModuleList()
        for _ in range(levels):
            layers: list[nn.Module] = []
            for a, b in zip((inputs, *widths), widths, strict=False):
                layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)]
            self.towers.append(nn.Sequential(*layers))
        self.join = nn.Conv2d(levels * widths[-1], width, 1, bias=False)
        self.norm = nn.GroupNorm(min(32, width // 2), width)
        self.key = nn.Conv2d(2 * width, width, 1)
        self.value = nn.Conv2d(width, width, 1)

    def forward(self, levels: Sequence[Tensor], stride: int) -> Dense:
        """Maps of the pyramid, the finest, of this stride, first -> `Dense`."""
        size = (levels[0].shape[-2], levels[0].shape[-1])
        parts = []
        for tower, level in zip(self.towers, levels, strict=True):
            x = tower(level)
            parts.append(x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False))
        x = self.norm(self.join(torch.cat(parts, 1))).relu()
        code = sine_code(size, self.width, x.device, x.dtype).expand(x.shape[0], -1, -1, -1)
        return Dense(self.key(torch.cat([x, code], 1)), self.value(x), stride)


def sample(maps: Tensor, pixels: Tensor, stride: int) -> Tensor:
    """Values between the cells of a map, bilinear; cells outside count as zero.

    Args:
        maps: (B, H D, h, w): D channels for each of H heads.
        pixels: of the image, (B, R, H, P, 2), centres at integers.
        stride: pixels of the image per cell.

    Returns:
        (B, R, H, P, D).
    """
    B, R, H, P, _ = pixels.shape
    h, w = maps.shape[-2:]
    limits = pixels.new_tensor([w * stride, h * stride])
    grid = (2 * (pixels + 0.5) / limits - 1).transpose(1, 2).reshape(B * H, R, P, 2)
    found = F.grid_sample(
        maps.reshape(B * H, -1, h, w), grid.to(maps), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return found.unflatten(0, (B, H)).permute(0, 3, 1, 4, 2)  # from (B, H, D, R, P)


class Samples(NamedTuple):
    """What the objects see. B images, R objects, H heads, P points, D channels per head.

    pixels (B, R, H, P, 2), of the image; features (B, R, H, P, D), the values there; attention (B, R, H, P), logits; inside
    (B, R, H, P), bool: in the image; query (B, R, H, D); objects (B, R, C), the embedding after a look around.
    """

    pixels: Tensor
    features: Tensor
    attention: Tensor
    inside: Tensor
    query: Tensor
    objects: Tensor


class DeformableSampler(nn.Module):
    """Where an object looks, and what it makes of it.

    Args:
        width: channels of embedding, key and value.
        heads: H; divides `width`.
        points: P of each head.
        hidden: channels of the feed-forward layer.
        dropout: share of its channels that are dropped in training.
        spread: how far the outermost points start from the reference point, strides of the object's level.
    """

    def __init__(self, width: int, heads: int, points: int, hidden: int, dropout: float = 0.1, spread: float = 3.0) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"the width must be a multiple of 4 and of the number of heads, got {width} and {heads} heads")
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(width, heads * points * 2)
        self.query = nn.Linear(width, width)
        self.place = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():  # every head in its own direction, its points at equal steps
            angle = (torch.arange(heads) + 0.5) * (2 * math.pi / heads)
            steps = (torch.arange(points) + 0.5) * (spread / points)
            rays = torch.stack([angle.cos(), angle.sin()], -1)
            self.offsets.bias.copy_((rays[:, None] * steps[:, None]).flatten() / SLOW)

    def forward(self, embedding: Tensor, reference: Tensor, strides: Tensor, dense: Dense) -> Samples:
        """Look around.

        Args:
            embedding: (B, R, C).
            reference: centre of each object in the image, (B, R, 2), pixels.
            strides: of the level it was found on, (B, R), pixels.
            dense: what there is to see.
        """
        offsets = SLOW * self.offsets(embedding).unflatten(-1, (self.heads, self.points, 2))
        pixels = (reference[:, :, None, None] + offsets.float() * strides[:, :, None, None, None]).float()
        h, w = dense.size
        relative = (reference + 0.5) / reference.new_tensor([w, h])
        query = self.query(SMALL * embedding) + self.place(_point_code(relative, embedding.shape[-1]).to(embedding))
        query = query.unflatten(-1, (self.heads, -1))
        features, attention = self.at(query, pixels, dense)
        edge = pixels.new_tensor([w, h]) - 0.5
        inside = ((pixels >= -0.5) & (pixels <= edge)).all(-1)
        seen = (attention.softmax(-1)[..., None] * features).sum(-2).flatten(-2)
        x = self.norm1(embedding + self.out(seen))
        return Samples(pixels, features, attention, inside, query, self.norm2(x + self.feed(x)))

    def at(self, query: Tensor, pixels: Tensor, dense: Dense) -> tuple[Tensor, Tensor]:
        """Values (B, R, H, P, D) and attention logits (B, R, H, P) of queries (B, R, H, D) at pixels (B, R, H, P, 2)."""
        key = sample(dense.key, pixels, dense.stride)
        logits = (query[..., None, :] * key).sum(-1).float() / math.sqrt(query.shape[-1])
        return sample(dense.value, pixels, dense.stride), logits


def _point_code(relative: Tensor, channels: int) -> Tensor:
    """`sine_code` of places in [0, 1] of the image, (..., 2) -> (..., channels)."""
    count = channels // 4
    rate = PERIOD ** (torch.arange(count, device=relative.device, dtype=relative.dtype) / count)
    u, v = (relative[..., None] * (2 * math.pi) / rate).unbind(-2)
    return torch.cat([v.sin(), v.cos(), u.sin(), u.cos()], -1)


class PointHead(nn.Module):
    """What every sampled point is: its place on the object and how much it counts.

    Args:
        width: channels per head, D.
        heads: H.
        hidden: channels of the feed-forward layer.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Linear(2, width)
        self.attend = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "out")})
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))
        self.weight, self.bias = _head_parameters(width, heads)

    def tokens(self, features: Tensor, query: Tensor) -> Tensor:
        """(..., H, P, D), (..., H, D) -> what the points are known by, (..., H P, D)."""
        return (features + SMALL * query[..., None, :]).flatten(-3, -2)

    def forward(self, tokens: Tensor, places: Tensor, memory: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Answers of H heads at P points each.

        Args:
            tokens: (..., H P, D).
            places: relative to the object's reference point, in strides, (..., H P, 2).
            memory: tokens of the points that are attended to, (..., M, D); None: these.
            known: places of those, (..., M, 2).

        Returns:
            (..., H, P, 5): the place on the object in units of its size, in about [-0.5, 0.5], and two weight logits.
        """
        if memory is None or known is None:
            memory, known = tokens, places
        queries, offered = tokens + self.place(places.to(tokens)), memory + self.place(known.to(memory))
        attended = F.scaled_dot_product_attention(
            self.attend["query"](queries), self.attend["key"](offered), self.attend["value"](memory)
        )
        x = self.norm1(tokens + self.attend["out"](attended))
        x = self.norm2(x + self.feed(x)).unflatten(-2, (self.heads, -1))
        return x @ self.weight + self.bias[:, None]


def _head_parameters(width: int, heads: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Of a linear layer for each head that says a place and two more numbers: (H, D, 5), (H, 5)."""
    signs = torch.tensor([[(CORNERS[h % 8] >> k & 1) * 2.0 - 1 for k in range(3)] for h in range(heads)])
    bias = torch.cat([signs / 2 / 2, torch.zeros(heads, 2)], -1)  # half-way to the cube's corners
    return nn.Parameter(0.01 * torch.randn(heads, width, 5)), nn.Parameter(bias)


class PixelHead(nn.Module):
    """What every pixel is, whatever object is asked: (..., H, P, D) -> place on the object (..., H, P, 3), and the logarithm of
    its deviations (..., H, P, 2). Source: EPro-PnP-Det, the first of its `corr_regs`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.weight, self.bias = _head_parameters(width, heads)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        place, log_sigma = (values @ self.weight + self.bias[:, None]).float().split([3, 2], -1)
        return place, log_sigma


class ObjectAnswers(NamedTuple):
    """Outputs for an object as a whole.

    size_code (..., 3); score (...,), logit; velocity (..., 2), metres per second; attributes (..., A), logits; log_scale
    (..., 2), log of the sum of the weights of u and v; direct (..., 5). What was not asked for has no entries.
    """

    size_code: Tensor
    score: Tensor
    velocity: Tensor
    attributes: Tensor
    log_scale: Tensor
    direct: Tensor


class ObjectHead(nn.Module):
    """Two hidden layers, and linear answers.

    Args:
        width: channels of the embedding.
        hidden: of the layers.
        attributes: A.
        initial_scale: log of the sum of the weights before training; None: no weights are asked for, but `direct`.
    """

    def __init__(self, width: int, hidden: int, attributes: int, initial_scale: float | None) -> None:
        super().__init__()
        self.splits = [3, 1, 2, attributes]
        self.body = _layers(width, hidden)
        self.answers = nn.Linear(hidden, sum(self.splits))
        self.scale = self.direct = None
        if initial_scale is None:
            self.direct = nn.Linear(hidden, 5)
        else:
            self.scale = nn.Linear(width, 2)
            nn.init.zeros_(self.scale.weight)
            nn.init.constant_(self.scale.bias, initial_scale)

    def forward(self, objects: Tensor) -> ObjectAnswers:
        """(..., C) -> answers."""
        x = self.body(objects)
        size, score, velocity, attributes = self.answers(x).float().split(self.splits, -1)
        none = size[..., :0]
        scale = none if self.scale is None else self.scale(objects).float().clamp(-20, 20)
        direct = none if self.direct is None else self.direct(x).float()
        return ObjectAnswers(size, score[..., 0], velocity, attributes, scale, direct)


class DepthHead(nn.Module):
    """How far what a pixel shows is, as a mixture, from the values of all heads there.

    Args:
        width: channels of the value, and of the two hidden layers.
        modes: M.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        last = nn.Linear(width, 2 * modes)
        self.answers = nn.Sequential(*_layers(width, width), last)
        with torch.no_grad():  # modes that start apart, and alike
            last.bias[:modes] = torch.linspace(-0.5, 1.5, modes)
            last.weight[modes:] = last.bias[modes:] = 0

    def forward(self, dense: Dense, pixels: Tensor) -> Tensor:
        """Pixels (B, P, 2) -> place and logit of every mode, (B, P, M, 2)."""
        values = sample(dense.value, pixels[:, None, None], dense.stride)[:, 0, 0]
        return self.answers(values).float().unflatten(-1, (2, self.modes)).mT


def _layers(width: int, hidden: int) -> nn.Sequential:
    first, second = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
