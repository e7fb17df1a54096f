"""What methods that look at one known object per crop share: the geometry of the objects, inside the network."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..detection.detector import rows_of
from ..exported import OnnxNet
from ..geometry import se3, symmetry
from ..types import ObjectModel


class ObjectGeometry(nn.Module):
    """Base of networks for known objects, whose geometry travels with the weights as buffers.

    Args:
        obj_ids: BOP numbers of the objects.
        models: their CAD models, or None where a weights file will fill the buffers.
        symmetry_steps: rotations per continuous symmetry axis.

    Raises:
        ValueError: no objects, or an object without a model.
    """

    ids: Tensor  # (K,)
    centre: Tensor  # (K, 3), of the object's box, metres, object frame
    scale: Tensor  # (K, 3), half the sides of that box: metres per normalised unit
    corners: Tensor  # (K, 8, 3), of that box, metres
    group: Tensor  # (K, S, 4, 4), symmetries with the identity first, padded with the identity

    def __init__(self, obj_ids: tuple[int, ...], models: Mapping[int, ObjectModel] | None, symmetry_steps: int) -> None:
        super().__init__()
        self.exported: OnnxNet | None = None  # computes in the place of the network, see `exported`
        if not obj_ids:
            raise ValueError(f"{type(self).__module__.rsplit('.', 1)[-1]}.Config.obj_ids is empty; name the objects to learn")
        classes = len(obj_ids)
        self.register_buffer("ids", torch.tensor(obj_ids))
        self.register_buffer("centre", torch.zeros(classes, 3))
        self.register_buffer("scale", torch.ones(classes, 3))
        self.register_buffer("corners", torch.zeros(classes, 8, 3))
        # only the loss needs the symmetries, so they stay out of the weights file
        self.register_buffer("group", torch.eye(4).expand(classes, 1, 4, 4).clone(), persistent=False)
        if models is None:
            return
        missing = [i for i in obj_ids if i not in models]
        if missing:
            raise ValueError(f"no CAD model for object(s) {missing}; the folder holds {sorted(models)}")
        chosen = [models[i] for i in obj_ids]
        groups = [symmetry.transforms(m.symmetries, symmetry_steps) for m in chosen]
        size = max(map(len, groups))
        self.group = torch.stack([torch.cat([g, torch.eye(4).expand(size - len(g), 4, 4)]) for g in groups])
        bounds = torch.stack([m.bounds for m in chosen])
        self.centre = bounds.mean(1)
        self.scale = (bounds[:, 1] - bounds[:, 0]).clamp_min(1e-6) / 2
        self.corners = torch.stack([m.corners for m in chosen])

    def index_of(self, labels: Tensor) -> Tensor:
        """Positions of object ids in `config.obj_ids`. (B,) -> (B,). Raises ValueError for an id it was not trained on."""
        return rows_of(labels, self.ids, "this model; it was trained on")

    def normalise(self, points: Tensor, index: Tensor) -> Tensor:
        """Metres in the object frame -> [-1, 1]. (B, 3, h, w), (B,) -> (B, 3, h, w)."""
        return (points - self.centre[index][..., None, None]) / self.scale[index][..., None, None]

    def metres(self, coordinates: Tensor, index: Tensor) -> Tensor:
        """Inverse of `normalise`. (B, 3, h, w), (B,) -> (B, 3, h, w)."""
        return coordinates * self.scale[index][..., None, None] + self.centre[index][..., None, None]

    def symmetric_targets(self, predicted: Tensor, metres: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """The true coordinates under the symmetry that suits each prediction best: the choice in the transformer loss.

        The motions act in the object frame, in metres, before normalisation, so axes with offset and unequal scales are
        right.

        Args:
            predicted: predicted coordinates, normalised, (B, 3, h, w).
            metres: true coordinates, metres, (B, 3, h, w).
            weight: of the pixels in the choice, 0 outside the object, (B, h, w).
            index: of the objects, (B,).

        Returns:
            normalised targets, (B, 3, h, w). Source: Pix2Pose, eq. 3.
        """
        chosen = self.normalise(metres, index)
        group = self.group[index]  # (B, S, 4, 4)
        symmetric = (group - torch.eye(4, device=group.device)).flatten(1).abs().amax(1) > 0
        # half precision would move the true points by a part in 256
        with torch.no_grad(), torch.autocast(metres.device.type, enabled=False):
            for b in symmetric.nonzero().flatten().tolist():
                inside = weight[b].flatten().nonzero().squeeze(1)
                if len(inside) == 0:
                    continue
                points = metres[b].flatten(1)[:, inside].T  # (n, 3)
                moved = se3.transform(se3.inverse(group[b]), points)  # (S, n, 3): the same pixel under the pose T S
                target = (moved - self.centre[index[b]]) / self.scale[index[b]]
                here = predicted[b].detach().flatten(1)[:, inside].T
                cost = ((here - target).abs().sum(-1) * weight[b].flatten()[inside]).sum(-1)
                best = cost.argmin()
                if best > 0:
                    chosen[b] = chosen[b].flatten(1).index_copy(1, inside, target[best].T).unflatten(1, metres.shape[-2:])
        return chosen


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(_batch_norm(channels), nn.LeakyReLU(0.3))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # Keras' own


class _ParallelDown(nn.Module):
    """Two parallel 5x5 convolutions of stride 2; both go deeper, only the second feeds the skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((1, 2, 1, 2))  # TensorFlow's SAME: the odd pixel goes to the right and the bottom
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 5, 2), _norm(outputs))
        self.second = nn.Sequential(nn.Conv2d(inputs, outputs, 5, 2), _norm(outputs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pad(x)
        skip = self.second(x)
        return torch.cat([self.first(x), skip], 1), skip


class _Up(nn.ConvTranspose2d):
    """Twice as large, 5x5, as the transposed convolution of TensorFlow's SAME."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, 2, 1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x, output_size)[..., :-1, :-1]


class _ParallelEncoder(nn.Module):
    """(B, 3, 128, 128) -> (B, 256, 16, 16), and skips of 64, 128 and 128 channels at 64, 32 and 16 pixels."""

    skips = (64, 128, 128)
    outputs = 256

    def __init__(self) -> None:
        super().__init__()
        self.down1 = _ParallelDown(3, 64)
        self.down2 = _ParallelDown(128, 128)
        self.down3 = _ParallelDown(256, 128)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for down in (self.down1, self.down2, self.down3):
            x, skip = down(x)
            skips.append(skip)
        return x, skips


class _ResNetEncoder(nn.Module):
    """ResNet-50 up to its third stage, strides in the first convolution of a block: what Pix2Pose had in BOP'20.

    (B, 3, 128, 128) -> (B, 512, 16, 16), and skips: the first 32, 128 and 128 channels at 64, 32 and 16 pixels.
    """

    skips = (32, 128, 128)
    outputs = 512

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), _batch_norm(64), nn.ReLU())
        self.pool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
        self.stage2, self.stage3 = self._stage(64, 64, 3, 1), self._stage(256, 128, 4, 2)

    @staticmethod
    def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        from torchvision.models.resnet import Bottleneck  # takes as long to import as torch

        side = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), _batch_norm(4 * width))
        first = Bottleneck(inputs, width, stride, side, norm_layer=_batch_norm)
        first.conv1.stride, first.conv2.stride = (stride, stride), (1, 1)
        return nn.Sequential(first, *(Bottleneck(4 * width, width, norm_layer=_batch_norm) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.stem(x)
        second = self.stage2(self.pool(first))
        third = self.stage3(second)
        return third, [x[:, :n] for x, n in zip((first, second, third), self.skips)]


class Pix2PoseGenerator(nn.Module):
    """Encoder of parallel convolutions, dense bottleneck, decoder with skips of half the channels.

    Args:
        classes: number of objects; the published network has one. More get their own output channels.
        resnet: the encoder is that of BOP'20, the first stages of a ResNet-50.

    Source: the code of Pix2Pose, whose weights it takes, see `commands.original_weights`.
    """

    def __init__(self, classes: int = 1, resnet: bool = False) -> None:
        super().__init__()
        self.classes = classes
        self.encoder: _ResNetEncoder | _ParallelEncoder = _ResNetEncoder() if resnet else _ParallelEncoder()
        side1, side2, side3 = self.encoder.skips
        self.down4 = _ParallelDown(self.encoder.outputs, 256)
        self.dense = nn.Sequential(nn.Linear(8 * 8 * 512, 256), nn.Linear(256, 8 * 8 * 256))
        self.up1 = nn.Sequential(_Up(256, 256), _norm(256))
        self.mix1 = nn.Sequential(nn.Conv2d(256 + side3, 256, 5, padding=2), _norm(256))
        self.up2 = nn.Sequential(_Up(256, 128), _norm(128))
        self.mix2 = nn.Sequential(nn.Conv2d(128 + side2, 256, 5, padding=2), _norm(256))
        self.up3 = nn.Sequential(_Up(256, 64), _norm(64))
        self.mix3 = nn.Sequential(nn.Conv2d(64 + side1, 128, 5, padding=2), _norm(128))
        self.head = _Up(128, 4 * classes)

    def forward(self, images: Tensor, index: Tensor) -> Tensor:
        """(B, 3, 128, 128) RGB in [0, 1], (B,) -> (B, 4, 128, 128): coordinates before tanh, error before sigmoid."""
        x, (skip1, skip2, skip3) = self.encoder((images * 255 - 128) / 128)
        x, _ = self.down4(x)
        x = self.dense(x.flatten(1)).unflatten(1, (256, 8, 8))
        x = self.mix1(torch.cat([self.up1(x), skip3], 1))
        x = self.mix2(torch.cat([self.up2(x), skip2], 1))
        x = self.mix3(torch.cat([self.up3(x), skip1], 1))
        outputs = self.head(x).unflatten(1, (self.classes, 4))
        return outputs[torch.arange(len(index), device=index.device), index]


class Discriminator(nn.Module):
    """Is a coordinate image rendered (1) or predicted (0)? (B, 3, 128, 128) in [-1, 1] -> logits (B,)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for i in range(7):
            outputs = 64 * min(8, 2**i)
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(inputs, 1)

    def forward(self, coordinates: Tensor) -> Tensor:
        return self.dense(self.layers(coordinates).flatten(1)).squeeze(1)
