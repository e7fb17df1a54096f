"""Detection networks: a light one-stage net of our own, and torchvision's Mask R-CNN with amodal boxes."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from ..nets.backbones import backbone

STRIDE = 4  # pixels of the input per cell of every map


class Maps(NamedTuple):
    """What the network says about every cell; h = H / 4, w = W / 4, K classes.

    Attributes:
        heat: logits of "the centre of an object of class k lies here", (B, K, h, w).
        distances: logarithm of the distances from the cell's centre to the left, top, right and bottom edge of the box, in
            cells, (B, K, 4, h, w).
        semantic: logits of the visible surface: background, then the classes, (B, K + 1, h, w).
        votes: from the cell's centre to the centre of the object it shows, in cells, (B, 2, h, w).
    """

    heat: Tensor
    distances: Tensor
    semantic: Tensor
    votes: Tensor


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers)


def _start(head: nn.Conv2d, bias: float, first: float | None = None) -> None:
    """Set the biases of a head, the first one to another value if given."""
    assert head.bias is not None
    nn.init.constant_(head.bias, bias)
    if first is not None:
        nn.init.constant_(head.bias[:1], first)


class OneStageNet(nn.Module):
    """Centres, boxes, visible surfaces and centre votes of all objects in one pass.

    Args:
        classes: number of object classes K.
        backbone_name: see `nets.backbones.backbone`.
        channels: width of the neck and the heads.
        pretrained: start the backbone from ImageNet weights.
        frozen: how many of the backbone's five levels stay as they are, batch statistics included; ignored when their
            weights are random, which are nothing to keep.

    Source: Zhou et al., Objects as Points (heat); Tian et al., FCOS (edge distances, log scale);
    Lin et al., Feature Pyramid Networks (neck).
    """

    def __init__(self, classes: int, backbone_name: str, channels: int, pretrained: bool, frozen: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = backbone(backbone_name, pretrained, frozen)
        widths = list(self.backbone.channels)[1:]
        self.lateral = nn.ModuleList(_conv(c, channels, 1) for c in widths)
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in widths[:-1])
        self.towers = nn.ModuleDict({name: _conv(channels, channels, 3) for name in ("heat", "distances", "surface")})
        self.heat = nn.Conv2d(channels, classes, 1)
        self.distances = nn.Conv2d(channels, 4 * classes, 1)
        self.semantic = nn.Conv2d(channels, classes + 1, 1)
        self.votes = nn.Conv2d(channels, 2, 1)
        for head in (self.heat, self.distances):
            nn.init.normal_(head.weight, std=0.01)
        _start(self.heat, -math.log(99))  # 1 % of the cells to start with, as in the focal loss paper
        _start(self.semantic, 0.0, first=math.log(9 * classes))  # and 10 % of the surface
        _start(self.distances, math.log(6))  # objects of 12 cells
        self.to(memory_format=torch.channels_last)  # 1.3 to 1.9 times faster on CPUs

    def forward(self, images: Tensor) -> Maps:
        """(B, 3, H, W), RGB in [0, 1], H and W multiples of 4 -> Maps."""
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))[1:]
        x = self.lateral[-1](features[-1])
        for i in range(len(features) - 2, -1, -1):
            side = self.lateral[i](features[i])
            up = F.interpolate(x, scale_factor=2.0, mode="nearest")[..., : side.shape[-2], : side.shape[-1]]
            x = self.smooth[i](side + up)
        surface = self.towers["surface"](x)
        distances = self.distances(self.towers["distances"](x)).unflatten(1, (self.classes, 4))
        return Maps(self.heat(self.towers["heat"](x)), distances, self.semantic(surface), 4 * self.votes(surface))


class _AmodalHeads(RoIHeads):
    """Second stage whose boxes may leave the image."""

    def postprocess_detections(self, class_logits, box_regression, proposals, image_shapes):  # type: ignore[no-untyped-def]
        # The parent clips boxes to the image. Decoding does not depend on the origin: in a far larger image nothing is cut.
        shift = float(max(max(shape) for shape in image_shapes))
        larger = [(int(h + 2 * shift), int(w + 2 * shift)) for h, w in image_shapes]
        moved = [p + shift for p in proposals]
        boxes, scores, labels = super().postprocess_detections(class_logits, box_regression, moved, larger)
        return [b - shift for b in boxes], scores, labels


class Pyramid(NamedTuple):
    """What the first stage of `TwoStageNet` hands to the second: normalised images and feature maps by level."""

    images: Tensor
    maps: dict[str, Tensor]


def _coco_weights() -> Mapping[str, Tensor] | None:
    """torchvision's, out of its cache or from the network; None where they cannot be had."""
    try:
        return MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.get_state_dict(progress=False)  # type: ignore[no-any-return]
    except Exception:  # urllib raises many kinds when there is no network
        return None


def start_from_coco(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take over what has the same name and shape: all but the last layers, which belong to classes."""
    own = net.state_dict()
    net.load_state_dict({k: v for k, v in state.items() if k in own and own[k].shape == v.shape}, strict=False)


class TwoStageNet(nn.Module):
    """torchvision's Mask R-CNN (ResNet-50 FPN v2), taken apart so that images go in, and losses or detections come out.

    Args:
        classes: number of object classes, without the background.
        pretrained: start from COCO's weights, all but what belongs to classes, as Pix2Pose did; where those cannot be had the
            ResNet from ImageNet's; warns and goes on where those cannot be had either.
        rois: regions per image that train the second stage.

    Source: He et al., Mask R-CNN; Li et al., Benchmarking Detection Transfer Learning (the v2 recipe).
    """

    def __init__(self, classes: int, pretrained: bool, rois: int = 128) -> None:
        super().__init__()
        options = {"weights": None, "num_classes": classes + 1, "box_batch_size_per_image": rois}
        net = None
        coco = _coco_weights() if pretrained else None
        if pretrained and coco is None:
            try:
                net = maskrcnn_resnet50_fpn_v2(weights_backbone=ResNet50_Weights.IMAGENET1K_V1, **options)
            except Exception as error:  # urllib raises many kinds when there is no network
                warnings.warn(
                    f"Mask R-CNN starts from random weights: its ImageNet weights cannot be had ({error})", stacklevel=2
                )
        self.net = maskrcnn_resnet50_fpn_v2(weights_backbone=None, **options) if net is None else net
        if coco is not None:
            start_from_coco(self.net, coco)
        self.net.roi_heads.__class__ = _AmodalHeads  # the constructor offers no place for it

    def forward(self, images: Tensor) -> Pyramid:
        """(B, 3, H, W), RGB in [0, 1] -> Pyramid."""
        images = self.net.transform.normalize(images)
        return Pyramid(images, self.net.backbone(images))

    def losses(self, pyramid: Pyramid, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The five losses of Mask R-CNN.

        Args:
            targets: per image "boxes" (n, 4), input pixels; "labels" (n,), 1 ... K; "masks" (n, H, W), uint8.
        """
        # Only the parts that look at their mode are switched, so losses of a model in eval mode leave its statistics alone.
        stages = (self.net.rpn, self.net.roi_heads)
        modes = [stage.training for stage in stages]
        try:
            for stage in stages:
                stage.training = True
            images = self._image_list(pyramid)
            proposals, first = self.net.rpn(images, pyramid.maps, targets)
            _, second = self.net.roi_heads(pyramid.maps, proposals, images.image_sizes, targets)
        finally:
            for stage, mode in zip(stages, modes, strict=True):
                stage.training = mode
        return {name.removeprefix("loss_"): value for name, value in {**first, **second}.items()}

    def detect(self, pyramid: Pyramid, score_threshold: float, max_detections: int, nms_iou: float) -> list[dict[str, Tensor]]:
        """Per image "boxes" (n, 4), input pixels, amodal; "labels" (n,), 1 ... K; "scores" (n,); "masks" (n, 1, 28, 28)."""
        heads = self.net.roi_heads
        heads.score_thresh, heads.detections_per_img, heads.nms_thresh = score_threshold, max_detections, nms_iou
        images = self._image_list(pyramid)
        proposals, _ = self.net.rpn(images, pyramid.maps)
        return heads(pyramid.maps, proposals, images.image_sizes)[0]

    def _image_list(self, pyramid: Pyramid) -> ImageList:
        count, _, height, width = pyramid.images.shape
        return ImageList(pyramid.images, [(height, width)] * count)
