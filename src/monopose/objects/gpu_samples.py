"""Training crops drawn on the device that learns from them: worker processes only decide, nothing is rendered there.

`CropSpecs` says in numbers what `CropSamples` would draw; `GpuSampler` keeps meshes on the device and draws a whole batch of
plans there: one rasterisation for all scenes, light, camera. The imperfections of the camera are those of `augment`, applied
by the workers to an impulse (blur), a colour cube (colours) and a grey picture (noise) instead of to the picture itself; only
the blocks of JPEG, which need the picture, are missing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..geometry import camera as camera_ops
from ..geometry import se3
from ..render import maps, scene
from ..render.maps import Lights
from ..render.raster import Fragments, rasterize
from ..synthesis import augment
from ..synthesis import scene as synth
from ..synthesis.samples import HIDDEN, Source, grey_spots, grey_strip
from ..synthesis.shapes import solids
from ..types import ObjectModel
from .samples import CropSamples

SPREAD = 21  # pixels a side of the point spread function
CUBE = 17  # colours per axis of the cube that carries photometric changes
LIGHTS = 3  # most far lights of a look
PAINTINGS = 64  # random paintings of every surface without colours


def model_list(source: Source) -> list[ObjectModel]:
    """Every model that may stand in a scene; plans name them by their rows here."""
    return [*source.models.values(), *source.others, *solids.distractors()]


class CropSpecs(Dataset):
    """What `CropSamples` draws, undrawn: a dict of tensors of fixed sizes, which `GpuSampler.draw` makes a batch of.

    N is the most objects a scene can have, s the side of the picture. "label" (); "which" (N,) rows of the bank, -1 = none, the
    target first; "cam_from_objs" (N, 4, 4); "cam_from_obj" (4, 4) of the target; "K" of the crop, "box" as in `CropSamples`;
    lights, materials, backgrounds and what the camera does.
    """

    def __init__(self, crops: CropSamples) -> None:
        self.crops = crops
        config = crops.source.scene
        self.most = min(config.objects[1], len(crops.source.models)) + config.distractors[1]

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        crops, s = self.crops, self.crops.input_size
        target, layout, square, look, rng = crops.sample_scene(i)
        spare = self.most - len(layout.models)
        pixel = s / float(square[2] - square[0])
        background, fill = (synth.background(crops.backgrounds, (s, s), rng) for _ in range(2))
        nothing = np.zeros((s, s), bool)
        covered = augment.patches(background, rng, fill)[1] if rng.random() < 0.35 else nothing
        strip = grey_strip(s, rng) if rng.random() < 0.3 else nothing
        greyed = rng.random() < crops.greyed_share
        reach, spots = grey_spots(s, rng)
        rows = {id(model): row for row, model in enumerate(model_list(crops.source))}
        far = LIGHTS - len(look.lights.directions)
        return {
            "label": torch.tensor(target.obj_id),
            "which": torch.tensor([*(rows[id(m)] for m in layout.models), *[-1] * spare]),
            "painting": torch.from_numpy(rng.integers(0, PAINTINGS, self.most)),
            "cam_from_objs": torch.cat([layout.cam_from_obj, torch.eye(4).expand(spare, 4, 4)]),
            "cam_from_obj": layout.cam_from_obj[0],
            "K": camera_ops.crop_resize_K(crops.source.camera.K, square, (s, s)),
            "K_out": camera_ops.crop_resize_K(crops.source.camera.K, square, (crops.output_size,) * 2),
            "box": square,
            "ambient": look.lights.ambient,
            "directions": F.pad(look.lights.directions, (0, 0, 0, far)),
            "direction_colors": F.pad(look.lights.direction_colors, (0, 0, 0, far)),
            "specular": _padded(look.specular, self.most),
            "shininess": _padded(look.shininess, self.most),
            "gains": _padded(look.gains, self.most),
            "flat": torch.tensor(look.flat),
            "background": torch.from_numpy(background.copy()),
            "fill": torch.from_numpy(fill.copy()),
            "light_on_objects": torch.from_numpy(augment.light_field((s, s), rng)[..., 0]).float(),
            "light_on_background": torch.from_numpy(0.5 + 0.5 * augment.light_field((s, s), rng)[..., 0]).float(),
            "spread": torch.from_numpy(_point_spread(pixel, rng)),
            "covered": torch.from_numpy(covered),
            "colours": torch.from_numpy(augment.photometric(_COLOURS, rng, crops.source.scene.colours)).view(
                CUBE, CUBE, CUBE, 3
            ),
            "grain": torch.from_numpy(augment.noise(np.full((s, s, 3), 128, np.uint8), rng, pixel).astype(np.int16) - 128).to(
                torch.int8
            ),
            "strip": torch.from_numpy(strip),
            "greyed": torch.tensor(greyed),
            "reach": torch.tensor(reach),
            "spots": torch.from_numpy(spots),
        }


def _padded(values: Any, rows: int) -> Tensor:
    """(n, ...) with rows of 0 added, float32."""
    values = torch.as_tensor(np.asarray(values, np.float32))
    return torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])


_LEVELS = np.rint(np.linspace(0, 255, CUBE)).astype(np.uint8)
_COLOURS = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij")[::-1], -1).reshape(
    -1, CUBE, 3
)  # axes blue, green, red


def _point_spread(pixel: float, rng: np.random.Generator) -> np.ndarray:
    """What the photo's own resolution, then defocus, motion and sharpening make of a single bright pixel, (SPREAD, SPREAD)."""
    # shrunk by area and enlarged bilinearly, a picture passes a box, then a triangle, of that width: about this bell
    across: np.ndarray = np.exp(-0.5 * ((np.arange(SPREAD) - SPREAD // 2) / max(pixel * 0.5, 1e-2)) ** 2).astype(np.float32)
    nothing: np.ndarray = (np.arange(SPREAD) == SPREAD // 2).astype(np.float32)
    line = across / across.sum() if pixel > 1 else nothing
    point = np.outer(line, line)
    point = augment.blur(point, rng, pixel)
    return point / point.sum()


class _Scenes(NamedTuple):
    """B scenes as B meshes, the target's part first. Padded: points with 0, faces with -1."""

    source: Tensor  # (B, V), row of the bank's vertices
    owner: Tensor  # (B, V), which of the N objects
    faces: Tensor  # (B, F, 3)
    of_target: Tensor  # (B, F), bool


class GpuSampler:
    """The models of a source on one device, and the light and the camera to draw crops of them.

    Args:
        source: what `CropSpecs` were made from.
        output_size: side of the targets, pixels.
        device: where to draw.
        seed: of the paintings of surfaces without colours.
    """

    def __init__(self, source: Source, output_size: int, device: torch.device | str, seed: int = 0) -> None:
        self.output_size = output_size
        self.bank = [m.to(device) for m in model_list(source)]
        self.points = torch.cat([m.vertices for m in self.bank])
        self.normals = torch.cat([m.normals for m in self.bank])
        self.first_point = _starts([len(m.vertices) for m in self.bank], device)
        self.first_face = _starts([len(m.faces) for m in self.bank], device)
        self.faces = torch.cat([m.faces for m in self.bank])
        rng = np.random.default_rng((seed, 6))
        self.paintings = {
            row: torch.stack(
                [torch.from_numpy(augment.paint(m.vertices.cpu().numpy(), m.diameter, rng)) for _ in range(PAINTINGS)]
            ).to(device)
            for row, m in enumerate(self.bank)
            if m.colors is None and (m.texture is None or m.uv is None)
        }

    @torch.no_grad()
    def draw(self, plans: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of training samples, as `CropSamples` gives them, from a collated batch of plans on the device.

        Args:
            plans: collated `CropSpecs`; keys that are not of a plan are passed on.

        Returns:
            "image" (B, 3, s, s), "label", "coordinates" (B, 3, h, h) metres, "mask_full", "mask_visible" (B, h, h) bool,
            "cam_from_obj", "K", "box".
        """
        with torch.autocast(plans["K"].device.type, enabled=False):
            image, owner, visible = self._rendered(plans)
            picture, visible = _photographed(plans, image, owner, visible)
            targets = self._targets(plans, visible)
        return {k: v for k, v in plans.items() if k not in _PLAN} | {"image": picture} | targets

    def _rendered(self, plans: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The objects before nothing: RGB (B, s, s, 3), which of them is seen, -1 = none, and where the target is."""
        side = plans["background"].shape[1]
        scenes = self._scenes(plans["which"])
        pose = plans["cam_from_objs"].gather(1, scenes.owner[..., None, None].expand(-1, -1, 4, 4))  # (B, V, 4, 4)
        points = (pose[..., :3, :3] @ self.points[scenes.source][..., None])[..., 0] + pose[..., :3, 3]
        seen = rasterize(points, scenes.faces, plans["K"], (side, side))
        alone = rasterize(points, scenes.faces.masked_fill(~scenes.of_target[..., None], -1), plans["K"], (side, side))
        visible = _of_target(seen, scenes)
        share = visible.flatten(1).sum(1) / (alone.face >= 0).flatten(1).sum(1).clamp_min(1)
        hidden = (share < HIDDEN)[:, None, None]  # show it without its neighbours
        seen = Fragments(*(torch.where(hidden if a.dim() == 3 else hidden[..., None], a, b) for a, b in zip(alone, seen)))

        shape, count = seen.face.shape, points.shape[1]
        pixels, corners, weights = maps.visible_corners(seen, scenes.faces, count)
        flat_points = points.flatten(0, 1)
        where = maps.blend(flat_points, corners, weights)
        turned = (pose[..., :3, :3] @ self.normals[scenes.source][..., None])[..., 0].flatten(0, 1)
        smooth = maps.unit(maps.blend(turned, corners, weights))
        picture = pixels // (side * side)
        normals = torch.where(plans["flat"][picture, None], maps.face_normals(flat_points, corners), smooth)
        whose = scenes.owner.flatten()[corners[:, 0]]
        albedo = self._albedo(plans, scenes.source.flatten()[corners], weights, picture, whose)

        def on_map(values: Tensor) -> Tensor:
            return maps.scatter(pixels, values, shape)

        lights = Lights(plans["ambient"], plans["directions"], plans["direction_colors"])
        color = maps.shade(
            on_map(albedo), on_map(maps.towards_camera(normals, where)), on_map(where), lights,
            on_map(plans["specular"][picture, whose][:, None]), on_map(plans["shininess"][picture, whose][:, None]),
        ).clamp(0, 1)  # fmt: skip
        color = color * on_map(plans["gains"][picture, whose])
        owner = torch.where(seen.face >= 0, on_map(whose[:, None].float())[..., 0].long(), -1)
        return color, owner, owner == 0

    def _albedo(self, plans: dict[str, Tensor], rows: Tensor, weights: Tensor, picture: Tensor, whose: Tensor) -> Tensor:
        """Unlit RGB (n, 3) of points between rows (n, 3) of the bank's vertices."""
        model = plans["which"][picture, whose]
        painting = plans["painting"][picture, whose]
        out = torch.empty(len(rows), 3, dtype=weights.dtype, device=weights.device)
        for row in plans["which"].unique().tolist():
            mine = (model == row).nonzero()[:, 0] if row >= 0 else rows[:0, 0]
            if not len(mine):
                continue
            corners = rows[mine] - self.first_point[row]
            if row in self.paintings:
                values = self.paintings[row]
                shifted = corners + painting[mine, None] * values.shape[1]
                out[mine] = maps.blend(values.flatten(0, 1), shifted, weights[mine])
            else:
                out[mine] = scene.surface_color(self.bank[row], corners, weights[mine]).to(out)
        return out

    def _scenes(self, which: Tensor) -> _Scenes:
        """Put the meshes of every scene one after the other. (B, N) rows of the bank, -1 = none."""
        batch = len(which)
        picture, place = (which >= 0).nonzero().unbind(1)
        row = which[picture, place]
        source, owner, vertex_at = _beside(self.first_point, row, picture, place, batch)
        source_face, face_owner, _ = _beside(self.first_face, row, picture, place, batch)
        # a face names vertices of its own mesh; in the scene that mesh starts where its first vertex went
        start = torch.zeros(batch, which.shape[1], dtype=torch.int64, device=which.device)
        start[picture, place] = vertex_at
        shift = start.gather(1, face_owner.clamp_min(0))
        faces = torch.where(face_owner[..., None] >= 0, self.faces[source_face] + shift[..., None], -1)
        return _Scenes(source, owner.clamp_min(0), faces, face_owner == 0)

    def _targets(self, plans: dict[str, Tensor], visible: Tensor) -> dict[str, Tensor]:
        """True coordinates and masks at output size, of the target alone."""
        h = self.output_size
        only = self._scenes(plans["which"][:, :1])
        vertices = self.points[only.source]
        fragments = rasterize(se3.transform(plans["cam_from_obj"], vertices), only.faces, plans["K_out"], (h, h))
        full = fragments.face >= 0
        share = F.adaptive_avg_pool2d(visible.float(), h)
        return {
            "coordinates": maps.coordinates(fragments, only.faces, vertices).permute(0, 3, 1, 2).contiguous(),
            "mask_full": full,
            "mask_visible": (share >= 0.5) & full,
        }


def _starts(lengths: list[int], device: torch.device | str) -> Tensor:
    """Where ranges of these lengths begin one after the other, and where the last ends."""
    return torch.tensor([0, *lengths], device=device).cumsum(0)


def _beside(first: Tensor, row: Tensor, picture: Tensor, place: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lay ranges of the bank one after the other in each picture.

    Args:
        first: (M + 1,), where the ranges of the bank's models begin.
        row, picture, place: (P,), a model, its picture and which of its objects it is, sorted by picture and place.
        batch: B.

    Returns:
        rows of the bank (B, L), 0 as padding; the objects they belong to (B, L), -1 as padding; where each of the P ranges
        begins in its picture, (P,).
    """
    length = first[row + 1] - first[row]
    ends = length.cumsum(0)
    per_picture = torch.zeros(batch, dtype=torch.int64, device=row.device).index_add_(0, picture, length)
    before = (ends - length) - (per_picture.cumsum(0) - per_picture)[picture]  # in the picture, before this range
    longest, total = int(per_picture.max()), int(length.sum())
    within = torch.arange(total, device=row.device) - (ends - length).repeat_interleave(length)
    at = (picture * longest + before).repeat_interleave(length) + within
    rows = torch.zeros(batch * longest, dtype=torch.int64, device=row.device)
    owner = torch.full_like(rows, -1)
    rows[at] = first[row].repeat_interleave(length) + within
    owner[at] = place.repeat_interleave(length)
    return rows.view(batch, longest), owner.view(batch, longest), before


def _of_target(seen: Fragments, scenes: _Scenes) -> Tensor:
    """Where the target is in front, (B, s, s), bool."""
    face = seen.face.flatten(1).long()
    return ((face >= 0) & scenes.of_target.gather(1, face.clamp_min(0))).view_as(seen.face)


def _photographed(plans: dict[str, Tensor], image: Tensor, owner: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """What the camera makes of the scene: (B, 3, s, s) RGB in [0, 1], and the target's mask as far as it is not covered."""
    objects, fill = owner >= 0, plans["fill"].float() / 255
    background = plans["background"].float() / 255 * plans["light_on_background"][..., None]
    image = torch.where(objects[..., None], image * plans["light_on_objects"][..., None], background).clamp(0, 1)
    image = _spread(image.permute(0, 3, 1, 2), plans["spread"]).clamp(0, 1)
    seen = visible.flatten(1).sum(1)
    left = (visible & ~plans["covered"]).flatten(1).sum(1)
    covered = plans["covered"] & (left > 0.3 * seen)[:, None, None]
    image = torch.where(covered[:, None], fill.permute(0, 3, 1, 2), image)
    visible = visible & ~covered
    image = _recoloured(image, plans["colours"].float() / 255)
    image = (image + plans["grain"].permute(0, 3, 1, 2).float() / 255).clamp(0, 1)
    seen = visible.flatten(1).sum(1)
    lost = (visible & plans["strip"]).flatten(1).sum(1)
    strip = plans["strip"] & (lost < 0.5 * seen)[:, None, None]
    visible = visible & ~strip
    kept = _grown(visible, plans["reach"])
    kept = torch.where(plans["spots"] >= 0, plans["spots"] > 0, kept) | ~plans["greyed"][:, None, None]
    return torch.where((kept & ~strip)[:, None], image, image.new_tensor(128 / 255)), visible


def _spread(image: Tensor, kernels: Tensor) -> Tensor:
    """Every picture through its own point spread function. (B, C, s, s), (B, k, k) -> (B, C, s, s)."""
    batch, channels, height, width = image.shape
    reach = kernels.shape[-1] // 2
    weight = kernels[:, None].repeat_interleave(channels, 0)
    padded = F.pad(image, (reach,) * 4, mode="reflect").reshape(1, batch * channels, height + 2 * reach, width + 2 * reach)
    return F.conv2d(padded, weight, groups=batch * channels).view_as(image)


def _recoloured(image: Tensor, cubes: Tensor) -> Tensor:
    """Every picture's colours looked up in its own cube, trilinearly. (B, 3, s, s), (B, b, g, r, 3) -> (B, 3, s, s)."""
    grid = 2 * image.permute(0, 2, 3, 1)[:, None] - 1  # (B, 1, s, s, 3): x is red, y green, z blue
    return F.grid_sample(cubes.permute(0, 4, 1, 2, 3), grid, align_corners=True)[:, :, 0]


def _grown(masks: Tensor, reach: Tensor) -> Tensor:
    """Masks (B, s, s) dilated by squares of 2 reach + 1 pixels, reach (B,)."""
    out = masks.clone()
    for r in reach.unique().tolist():
        rows = (reach == r).nonzero()[:, 0]
        out[rows] = F.max_pool2d(masks[rows, None].float(), 2 * r + 1, 1, r)[:, 0] > 0
    return out


_PLAN = frozenset(
    (
        "which", "painting", "cam_from_objs", "K_out", "ambient", "directions", "direction_colors", "specular", "shininess",
        "gains", "flat", "background", "fill", "light_on_objects", "light_on_background", "spread", "covered", "colours",
        "grain", "strip", "greyed", "reach", "spots",
    )
)  # fmt: skip  # what a batch is drawn from and does not keep
