"""Projection, rays and the crops that move image and intrinsics together. Pixel centres at integers."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import boxes as box_ops
from . import se3
from .rotation import full_precision


@full_precision
def project(points_cam: Tensor, K: Tensor, z_min: float = 1e-6) -> Tensor:
    """Pixels of points in the camera frame.

    Args:
        points_cam: (..., N, 3), metres.
        K: intrinsics, (..., 3, 3), pixels.
        z_min: depths are clamped from below to this, metres, so that nothing divides by zero.

    Returns:
        (..., N, 2), pixels; meaningless, though finite, for points behind the camera.
    """
    homogeneous = points_cam @ K.mT
    return homogeneous[..., :2] / homogeneous[..., 2:].clamp_min(z_min)


@full_precision
def unproject(pixels: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """Points in the camera frame of pixels with known depth z. (..., N, 2), (..., N), (..., 3, 3) -> (..., N, 3)."""
    ones = torch.ones_like(pixels[..., :1])
    return torch.cat([pixels, ones], -1) @ torch.linalg.inv(K).mT * depth[..., None]


def pixel_grid(size: tuple[int, int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """The centre (u, v) of every pixel of an image of `size` (h, w), (H, W, 2)."""
    v, u = torch.meshgrid(
        torch.arange(size[0], device=device, dtype=dtype), torch.arange(size[1], device=device, dtype=dtype), indexing="ij"
    )
    return torch.stack([u, v], -1)


def rays(K: Tensor, size: tuple[int, int]) -> Tensor:
    """Directions with z = 1 through every pixel centre. (..., 3, 3) -> (..., H, W, 3)."""
    pixels = pixel_grid(size, K.device, K.dtype).flatten(0, 1)
    ones = torch.ones_like(pixels[..., 0])
    return unproject(pixels.expand(*K.shape[:-2], -1, -1), ones, K).unflatten(-2, size)


def K_from_fov(fov_x: float, size: tuple[int, int]) -> Tensor:
    """Intrinsics of a centred camera with square pixels.

    Args:
        fov_x: horizontal field of view, radians.
        size: (height, width), pixels.
    """
    if not 0 < fov_x < math.pi:
        raise ValueError(f"a horizontal field of view lies between 0 and 180 degrees, got {math.degrees(fov_x):.1f}")
    f = size[1] / 2 / math.tan(fov_x / 2)
    return torch.tensor([[f, 0.0, (size[1] - 1) / 2], [0.0, f, (size[0] - 1) / 2], [0.0, 0.0, 1.0]])


def crop_resize_K(K: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Intrinsics after cutting `boxes` (..., 4), xyxy on pixel edges, and resizing to `size` (h, w).

    c' = (c + 0.5 - corner) s - 0.5 and f' = f s. (..., 3, 3) -> (..., 3, 3).
    """
    extent = boxes[..., 2:] - boxes[..., :2]
    scale = extent.new_tensor([size[1], size[0]]) / extent
    batch = np.broadcast_shapes(K.shape[:-2], boxes.shape[:-1])
    out = K.expand(*batch, 3, 3).clone()
    out[..., :2, :2] = K[..., :2, :2] * scale[..., None]
    out[..., :2, 2] = (K[..., :2, 2] + 0.5 - boxes[..., :2]) * scale - 0.5
    return out


def crop_resize(images: Tensor, boxes: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Cut boxes out of images and resize them; outside the image is 0.

    Args:
        images: (C, H, W), shared by all boxes, or (B, C, H, W).
        boxes: (B, 4), xyxy on pixel edges; may leave the image.
        size: (h, w) of the crops.
        mode: "bilinear" or "nearest", as in `torch.nn.functional.grid_sample`.

    Returns:
        (B, C, h, w). Bilinear sampling without prefilter: shrink by more than 2 only what is smooth.
    """
    if images.dtype in (torch.float16, torch.bfloat16):  # in which pixels far from the corner have no place of their own
        return crop_resize(images.float(), boxes.float(), size, mode).to(images.dtype)
    height, width = images.shape[-2:]
    scale = (boxes[:, 2:] - boxes[:, :2]) / boxes.new_tensor([size[1], size[0]])
    centres = boxes[:, None, None, :2] + (pixel_grid(size, boxes.device, boxes.dtype) + 0.5) * scale[:, None, None]
    grid = centres / boxes.new_tensor([width, height]) * 2 - 1  # edges of the image at -1 and 1
    if images.dim() == 3:
        images = images.expand(len(boxes), *images.shape)
    return F.grid_sample(images, grid.to(images.dtype), mode=mode, padding_mode="zeros", align_corners=False)


def crop_around(
    points: Tensor, cam_from_obj: Tensor, K: Tensor, scale: float, z_min: float = 1e-6,
    limits: tuple[float, float] | None = None,
) -> Tensor:  # fmt: skip
    """The square crop around an object as a pose shows it.

    Args:
        points: of the object's surface or box, (..., N, 3), metres, object frame.
        cam_from_obj: (..., 4, 4), metres.
        K: intrinsics of the image, (..., 3, 3), pixels.
        scale: side of the crop / longer side of the box around the projected points.
        z_min: depths are clamped from below to this, metres.
        limits: least and greatest longer side of that box, pixels.

    Returns:
        (..., 4), xyxy on pixel edges; may leave the image, and means nothing for points behind the camera.
    """
    seen = project(se3.transform(cam_from_obj, points), K.to(points), z_min)
    return box_ops.square(box_ops.from_points(seen), scale, limits)


def cut(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Crops of an image, low-passed where they shrink, so that thin lines do not alias; grey outside the image.

    Args:
        image: (3, H, W), RGB in [0, 1]; of float16 only what the crops show is computed in float32.
        boxes: squares, (B, 4), xyxy pixel edges of the image; may leave it.
        side: of the crops, pixels.

    Returns:
        (B, 3, side, side).
    """
    at, extent = pixels(boxes, side), boxes.new_tensor([image.shape[-1], image.shape[-2]])
    inside = torch.minimum(at + 1, extent - at).clamp(0, 1).prod(-1)[:, None]  # weight of the picture in bilinear sampling
    return _smooth(image, boxes, side) + 0.5 * (1 - inside)


def pixels(boxes: Tensor, side: int) -> Tensor:
    """Where the pixels of crops lie in the image. (B, 4), xyxy pixel edges -> (B, side, side, 2), pixel centres at integers."""
    grid = (pixel_grid((side, side), boxes.device, boxes.dtype) + 0.5) / side  # in [0, 1] of the crop
    return boxes[:, None, None, :2] + grid * (boxes[:, None, None, 2:] - boxes[:, None, None, :2]) - 0.5


LARGE = 1 << 24  # elements of a picture from which each crop is taken out of its own part of it
COARSE = 9  # width of the low-pass filter from which the picture is first averaged over whole blocks, pixels


def _smooth(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    shrink = ((boxes[:, 2] - boxes[:, 0]) / side).tolist()
    if all(f < 1.5 for f in shrink) and image.numel() < LARGE and image.dtype != torch.float16:
        return crop_resize(image, boxes, (side, side))
    crops = []
    for box, f in zip(boxes, shrink, strict=True):
        k = round(f) // 2 * 2 + 1
        part, shifted = image, box
        if k > 1 or image.numel() >= LARGE:  # what the crop shows and a margin, not the whole picture
            low = (box[:2].floor().long() - k - 1).clamp_min(0).tolist()
            high = (box[2:].ceil().long() + k + 1).tolist()
            part, shifted = image[:, low[1] : max(high[1], 0), low[0] : max(high[0], 0)], box - box.new_tensor(low + low)
            if 0 in part.shape:  # beside the picture: all of the crop is grey
                part, shifted = image[:, :1, :1], box
        if k >= COARSE:  # the cost of the filter grows with its width, that of blocks does not
            block = k // 3
            # channel by channel: the pooling copies what it is given, which may be most of a large picture
            part = torch.cat([F.avg_pool2d(c[None], block, ceil_mode=True, count_include_pad=False) for c in part])
            shifted, k = shifted / block, 3
        part = part.float() if part.dtype == torch.float16 else part
        if k > 1:
            part = F.avg_pool2d(part[None], k, 1, k // 2, count_include_pad=False)[0]
        crops.append(crop_resize(part, shifted[None], (side, side)))
    return torch.cat(crops)
