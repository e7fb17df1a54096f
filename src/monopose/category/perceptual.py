"""Features in which pictures are compared: EfficientNet-Lite0's as ImageNet made them, or VGG-19's, which are published.

Results depend on them, so they are named, and it is an error if their weights are not on this machine: nothing is downloaded
here, and nothing takes their place.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ..nets.backbones import EfficientNetLite0

Name = Literal["vgg19", "efficientnet_lite0", "demo", "pyramid"]
NAMES: tuple[Name, ...] = ("efficientnet_lite0", "vgg19", "demo", "pyramid")
DEFAULT: Name = "efficientnet_lite0"
DEMO = Path(__file__).parents[1] / "assets" / "demo" / "coordinates.safetensors"


class Perceptual(nn.Module):
    """Pictures -> feature maps whose squared differences, averaged, say how different the pictures look.

    Args:
        name: "vgg19": conv3_3 before its ReLU, as published for the fitting. "efficientnet_lite0": levels of strides 2, 4
            and 8, every feature vector scaled to unit length. "demo": the same of the encoder that found coordinates of the
            bundled objects. "pyramid": the picture itself at 1, 1/2, 1/4, 1/8.

    Raises:
        FileNotFoundError, ModuleNotFoundError: the weights are not there.
    """

    def __init__(self, name: Name) -> None:
        super().__init__()
        self.name = name
        self.net: nn.Module | None = None
        if name == "vgg19":
            self.net = _vgg19()
        elif name in ("efficientnet_lite0", "demo"):
            self.net = EfficientNetLite0()
            if name == "demo":
                self.net.load_state_dict(_part(DEMO, "net.backbone."), strict=True)
            else:
                self.net.load_pretrained()
            self.net._blocks = self.net._blocks[: EfficientNetLite0._TAPS[2] + 1]  # the deeper levels are not looked at
        elif name != "pyramid":
            raise ValueError(f"perceptual features are one of {', '.join(NAMES)}, got {name!r}")
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S), RGB in [0, 1] -> maps (B, C, s, s), fine to coarse."""
        if self.name == "pyramid":
            return [images, *(F.avg_pool2d(images, k) for k in (2, 4, 8) if images.shape[-1] >= k)]
        assert self.net is not None
        if self.name == "vgg19":
            mean, std = images.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
            return [self.net((images - mean) / std)]
        return [f / (f.square().sum(1, keepdim=True) + 1e-4).sqrt() for f in self.net(images)]

    def distance(self, found: list[Tensor], wanted: list[Tensor], weights: Tensor | None = None) -> Tensor:
        """How different pictures look.

        Args:
            found: features of B pictures.
            wanted: features of B pictures, or of one for all.
            weights: what each pixel counts, (B or 1, 1, S, S), in [0, 1], not all 0; None: all the same.

        Returns:
            (B,), weighted mean squared difference; unit vectors are summed over channels first.
        """
        total = torch.zeros_like(found[0][:, 0, 0, 0])
        for a, b in zip(found, wanted, strict=True):
            difference = (a - b).square()
            map_ = difference.sum(1) if isinstance(self.net, EfficientNetLite0) else difference.mean(1)
            if weights is None:
                total = total + map_.mean((1, 2))
            else:
                w = F.adaptive_avg_pool2d(weights, (map_.shape[-2], map_.shape[-1]))[:, 0]
                total = total + (map_ * w).sum((1, 2)) / w.sum((1, 2)).clamp_min(1e-6)
        return total / len(found)


def _part(file: Path, prefix: str) -> dict[str, Tensor]:
    """The weights of a file whose names begin so, without that beginning, in full precision."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        return {
            name.removeprefix(prefix): t.float() if t.is_floating_point() else t
            for name in stored.keys()  # noqa: SIM118
            if name.startswith(prefix)
            for t in (stored.get_tensor(name),)
        }


def _vgg19() -> nn.Module:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(folder.glob("vgg19-*.pth"))
    if not files:
        raise FileNotFoundError(f"no vgg19-*.pth in {folder}; torchvision puts it there: vgg19(weights='DEFAULT')")
    state = torch.load(files[0], weights_only=True, map_location="cpu")
    with torch.device("meta"):  # its classifier would take half a gigabyte
        features = torchvision.models.vgg19(weights=None).features[:15]
    kept = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    features.load_state_dict({k: v for k, v in kept.items() if int(k.split(".")[0]) < 15}, strict=True, assign=True)
    for layer in features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return features


@functools.lru_cache(maxsize=4)
def network(name: Name = DEFAULT, device: torch.device | str = "cpu") -> Perceptual:
    """Perceptual features, loaded once per device.

    Raises:
        FileNotFoundError: their weights are not on this machine; says where to get them.
        ValueError: no such features.
    """
    try:
        return Perceptual(name).to(device)
    except (FileNotFoundError, ModuleNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"no weights of the features {name} here ({error}); get them, or choose others that results shall depend on: "
            f"{', '.join(n for n in NAMES if n != name)}"
        ) from error
