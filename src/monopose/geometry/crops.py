"""Square crops of a photo for networks that look at one object: cut smoothly, and where their pixels lie in the photo."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import camera as camera_ops


def cut(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Crops of an image, low-passed where they shrink, so that thin lines do not alias; grey outside the image.

    Args:
        image: (3, H, W), RGB in [0, 1].
        boxes: squares, (B, 4), xyxy pixel edges of the image; may leave it.
        side: of the crops, pixels.

    Returns:
        (B, 3, side, side).
    """
    inside = camera_ops.crop_resize(torch.ones_like(image[:1]), boxes, (side, side))
    return _smooth(image, boxes, side) + 0.5 * (1 - inside)


def pixels(boxes: Tensor, side: int) -> Tensor:
    """Where the pixels of crops lie in the image. (B, 4), xyxy pixel edges -> (B, side, side, 2), pixel centres at integers."""
    grid = (camera_ops.pixel_grid((side, side), boxes.device, boxes.dtype) + 0.5) / side  # in [0, 1] of the crop
    return boxes[:, None, None, :2] + grid * (boxes[:, None, None, 2:] - boxes[:, None, None, :2]) - 0.5


def _smooth(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    shrink = ((boxes[:, 2] - boxes[:, 0]) / side).tolist()
    if all(f < 1.5 for f in shrink):
        return camera_ops.crop_resize(image, boxes, (side, side))
    crops = []
    for box, f in zip(boxes, shrink, strict=True):
        k = round(f) // 2 * 2 + 1
        part, moved = image, box
        if k > 1:  # smooth what the crop shows and a margin, not the whole picture
            low = (box[:2].floor().long() - k).clamp_min(0).tolist()
            high = (box[2:].ceil().long() + k).tolist()
            part, moved = image[:, low[1] : max(high[1], 0), low[0] : max(high[0], 0)], box - box.new_tensor(low + low)
            if 0 in part.shape:  # beside the picture
                part, moved = image, box
            part = F.avg_pool2d(part[None], k, 1, k // 2, count_include_pad=False)[0]
        crops.append(camera_ops.crop_resize(part, moved[None], (side, side)))
    return torch.cat(crops)
