"""torchvision's Mask R-CNN with amodal boxes. A module of its own: importing torchvision takes as long as importing torch."""

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image

from .networks import Pyramid


class _AmodalHeads(RoIHeads):
    """Second stage whose boxes may leave the image."""

    def postprocess_detections(self, class_logits, box_regression, proposals, image_shapes):  # type: ignore[no-untyped-def]
        # The parent clips boxes to the image. Decoding does not depend on the origin: in a far larger image nothing is cut.
        shift = float(max(max(shape) for shape in image_shapes))
        larger = [(int(h + 2 * shift), int(w + 2 * shift)) for h, w in image_shapes]
        moved = [p + shift for p in proposals]
        boxes, scores, labels = super().postprocess_detections(class_logits, box_regression, moved, larger)
        return [b - shift for b in boxes], scores, labels


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


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, 1, 28, 28) of boxes (n, 4) where they are in a picture of `size` (h, w): (n, h, w), bool."""
    return (paste_masks_in_image(masks, boxes, size)[:, 0] > 0.5).reshape(-1, *size)
