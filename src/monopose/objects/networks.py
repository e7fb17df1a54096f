"""What methods that look at one known object per crop share: the geometry of the objects, inside the network."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..geometry import se3, symmetry
from ..types import ObjectModel


def rows_of(labels: Tensor, ids: Tensor, owner: str) -> Tensor:
    """Positions of object ids in the list `ids` that a network learned.

    Args:
        labels: object ids, (B,).
        ids: (K,).
        owner: how the error calls the network, e.g. "this detector; it was made for".

    Returns:
        (B,), on the device of `ids`.

    Raises:
        ValueError: for an id that is not in the list.
    """
    match = labels.to(ids.device)[:, None] == ids
    if not bool(match.any(1).all()):
        unknown = sorted(set(labels.tolist()) - set(ids.tolist()))
        raise ValueError(f"object id(s) {unknown} are unknown to {owner} {ids.tolist()}")
    return match.int().argmax(1)


class KnownObjects(nn.Module):
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

    def symmetric_targets(self, said: Tensor, metres: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """The true coordinates under the symmetry that suits each prediction best: the choice in the transformer loss.

        The motions act in the object frame, in metres, before normalisation, so axes with offset and unequal scales are
        right.

        Args:
            said: predicted coordinates, normalised, (B, 3, h, w).
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
                here = said[b].detach().flatten(1)[:, inside].T
                cost = ((here - target).abs().sum(-1) * weight[b].flatten()[inside]).sum(-1)
                best = cost.argmin()
                if best > 0:
                    chosen[b] = chosen[b].flatten(1).index_copy(1, inside, target[best].T).unflatten(1, metres.shape[-2:])
        return chosen
