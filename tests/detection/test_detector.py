"""The detector: targets in closed form, boxes there and back, edge cases, learning on shapes that can be told by eye."""

import typing
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

from monopose.detection import detector, networks, two_stage
from monopose.detection.networks import STRIDE, OneStageNet
from monopose.geometry import boxes as box2d
from monopose.objects import options, pipeline
from monopose.types import Camera, Detections, Frame

IDS = (5, 9)  # 5: red rectangle, 9: green disc


def tiny(**changes) -> detector.Config:
    fields = {"image_height": 96, "image_width": 128, "backbone": "resnet18", "pretrained": False, "channels": 32, **changes}
    return detector.small(IDS, **fields)


def tiny_two_stage() -> detector.Config:
    return detector.maskrcnn(IDS, image_height=96, image_width=128, pretrained=False, rois=8)


def scene(shapes: list[tuple[int, float, float, float, float]], size: tuple[int, int] = (96, 128)) -> dict[str, Tensor]:
    """A noisy picture of (object id, centre u, centre v, width, height); later shapes lie in front."""
    height, width = size
    generator = torch.Generator().manual_seed(len(shapes))
    image = 0.4 + 0.2 * torch.rand(3, height, width, generator=generator)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    full, colours = [], {5: (0.9, 0.1, 0.1), 9: (0.1, 0.9, 0.2)}
    for label, cu, cv, w, h in shapes:
        du, dv = (u - cu).abs() / (w / 2), (v - cv).abs() / (h / 2)
        full.append((du.square() + dv.square() < 1) if label == 9 else torch.maximum(du, dv) < 1)
        image = torch.where(full[-1], torch.tensor(colours[label])[:, None, None], image)
    masks = [m & ~torch.stack([*full[i + 1 :], torch.zeros_like(m)]).any(0) for i, m in enumerate(full)]
    areas = [(torch.pi / 4 if label == 9 else 1) * w * h for label, _, _, w, h in shapes]
    return {
        "image": image,
        "boxes": torch.tensor([[cu - w / 2, cv - h / 2, cu + w / 2, cv + h / 2] for _, cu, cv, w, h in shapes]).reshape(-1, 4),
        "labels": torch.tensor([s[0] for s in shapes], dtype=torch.int64),
        "masks": torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool),
        "visibility": torch.tensor([float(m.sum()) / a for m, a in zip(masks, areas, strict=True)]).clamp_max(1),
    }


def collate(*scenes: dict[str, Tensor]) -> dict:
    batch: dict = {k: [s[k] for s in scenes] for k in scenes[0]}
    batch["image"] = torch.stack(batch["image"])
    return batch


def scenes() -> dict:
    return collate(
        scene([(5, 40, 40, 36, 24), (9, 90, 60, 30, 30)]),
        scene([(9, 30, 30, 40, 40), (9, 62, 34, 32, 32)]),  # two of a kind, one in front of the other
        scene([(5, 120, 50, 40, 40), (9, 64, 92, 30, 30)]),  # both leave the image
        scene([]),
    )


# ---------------------------------------------------------------------------------------------------- boxes and input


@pytest.mark.parametrize("original", [(96, 128), (480, 640), (100, 50), (37, 301), (96, 64)])
def test_letterbox_moves_boxes_with_the_picture(original):
    height, width = original
    box = torch.tensor([[0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height]])
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    inside = (u > box[0, 0]) & (u < box[0, 2]) & (v > box[0, 1]) & (v < box[0, 3])
    images, content = detector.letterbox(inside.float().expand(1, 3, -1, -1), (96, 128), fill=0.0)
    assert images.shape == (1, 3, 96, 128)
    assert content[0] == 96 or content[1] == 128
    moved = box * detector._scale(original, content, box)
    seen = box2d.from_masks(images[:, 0] > 0.5)
    pixel = 1 + max(content[0] / height, content[1] / width)  # the drawn edge was rounded to a pixel before and after
    assert (seen - moved).abs().max() <= pixel / 2 + 0.01
    assert torch.allclose(moved / detector._scale(original, content, box), box, atol=1e-4)


@pytest.mark.parametrize("size", [(600, 900), (77, 50), (20, 30)])
def test_letterbox_in_strips_is_that_of_the_whole(size):
    image = torch.rand(1, 3, *size)
    shown, (h, w) = detector.letterbox(image, (96, 128))
    whole = torch.nn.functional.interpolate(image, (h, w), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(shown[..., :h, :w], whole, atol=1e-5, rtol=0)


def test_letterbox_leaves_an_image_of_the_right_size_alone():
    image = torch.rand(2, 3, 96, 128)
    images, content = detector.letterbox(image, (96, 128))
    assert torch.equal(images, image)
    assert content == (96, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decode_inverts_encode(dtype):
    boxes = torch.tensor([[10.0, 20, 50, 61], [-30, -10, 40, 90], [100, 3, 700, 9]], dtype=dtype)
    cells = torch.tensor([[7, 10], [1, 9], [99, 1]])
    assert torch.allclose(detector.decode(detector.encode(boxes, cells), cells), boxes, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ targets


def test_targets_in_closed_form():
    model = detector.Model(tiny())
    batch = scenes()
    targets = detector.build_targets(model, batch)
    assert targets.heat.shape == (4, 2, 24, 32)
    assert targets.peaks.sum() == 6
    assert targets.heat[targets.peaks].eq(1).all()
    assert targets.heat.max() == 1
    # the rectangle of scene 0: centre (40, 40) in cell 10, 36 x 24 pixels = 9 x 6 cells
    assert targets.peaks[0, 0, 10, 10]
    sigma = (0.54 * 9 + 1) / 6
    assert targets.heat[0, 0, 10, 12].item() == pytest.approx(torch.tensor(-(2**2) / (2 * sigma**2)).exp().item(), rel=1e-5)
    # the one of scene 2 is centred at u = 120; the disc at v = 92, whose box reaches below the image
    assert targets.peaks[2, 0, 12, 30]
    assert targets.peaks[2, 1, 23, 16]
    for i, k, row, column in targets.box_cells.tolist():
        assert targets.heat[i, k, row, column] > 0.3
    mine = (targets.box_cells[:, 0] == 2) & (targets.box_cells[:, 1] == 0)
    assert torch.equal(targets.boxes[mine][0], torch.tensor([100.0, 30, 140, 70]))
    # nothing in scene 3
    assert targets.heat[3].max() == 0
    assert targets.semantic[3].max() == 0
    assert not (targets.box_cells[:, 0] == 3).any()


def test_surface_and_votes_belong_to_the_visible_object():
    model = detector.Model(tiny())
    batch = scenes()
    targets = detector.build_targets(model, batch)
    i, row, column = targets.vote_cells.unbind(-1)
    assert torch.equal(
        targets.semantic > 0, torch.zeros_like(targets.semantic).index_put((i, row, column), torch.tensor(1)) > 0
    )
    goal = targets.votes + torch.stack([column, row], -1) + 0.5
    for b, boxes in enumerate(batch["boxes"]):
        centres = (boxes[:, :2] + boxes[:, 2:]) / (2 * STRIDE)
        for g, r, c in zip(goal[i == b], row[i == b], column[i == b], strict=True):
            n = (centres - g).norm(dim=-1).argmin()
            assert torch.allclose(centres[n], g, atol=1e-4)
            assert batch["masks"][b][n, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].any()
    area = (targets.semantic == 1).sum((1, 2)) * STRIDE**2
    assert area[0].item() == pytest.approx(36 * 24, rel=0.15)


def test_hidden_objects_are_neither_target_nor_background():
    model = detector.Model(tiny())
    batch = collate(scene([(5, 64, 48, 30, 30)]))
    batch["visibility"] = [torch.tensor([0.05])]
    targets = detector.build_targets(model, batch)
    assert not targets.peaks.any()
    assert len(targets.boxes) == 0
    logits = torch.full_like(targets.heat, -20.0)
    shouted = logits.clone()
    shouted[0, 0, 12, 16] = 20.0
    quiet, loud = (detector.focal_loss(x, targets.heat, targets.peaks) for x in (logits, shouted))
    assert loud.item() == pytest.approx(quiet.item(), abs=1e-5)


def test_focal_loss_vanishes_on_a_perfect_answer_only():
    targets = detector.build_targets(detector.Model(tiny()), scenes())
    perfect = torch.where(targets.peaks, 20.0, -20.0)
    assert detector.focal_loss(perfect, targets.heat, targets.peaks) < 1e-4
    assert detector.focal_loss(-perfect, targets.heat, targets.peaks) > 1


def test_targets_do_not_depend_on_the_resolution_of_the_batch():
    model = detector.Model(tiny())
    batch = scenes()
    double = {
        "image": torch.nn.functional.interpolate(batch["image"], scale_factor=2.0),
        "boxes": [2 * b for b in batch["boxes"]],
        "masks": [m.repeat_interleave(2, 1).repeat_interleave(2, 2) for m in batch["masks"]],
        "labels": batch["labels"],
        "visibility": batch["visibility"],
    }
    one, two = detector.build_targets(model, batch), detector.build_targets(model, double)
    assert torch.allclose(one.heat, two.heat)
    assert torch.equal(one.boxes, two.boxes)
    assert (one.semantic != two.semantic).float().mean() < 0.01  # antialiasing moves masks by a fraction of a pixel


# --------------------------------------------------------------------------------------------------- loss and learning


def test_loss_reaches_every_parameter():
    model = detector.Model(tiny())
    losses = detector.loss(model, model(scenes()["image"]), scenes())
    assert set(losses) == {"heat", "boxes", "semantic", "votes"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for head in (model.net.heat, model.net.distances, model.net.semantic, model.net.votes):
        assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("config", [tiny(), tiny_two_stage()], ids=["small", "maskrcnn"])
def test_a_batch_without_objects_has_a_finite_loss(config):
    model = detector.Model(config)
    batch = collate(scene([]), scene([]))
    total = sum(detector.loss(model, model(batch["image"]), batch).values())
    total.backward()
    assert torch.isfinite(total)


def test_an_unknown_object_is_an_error():
    model = detector.Model(tiny())
    batch = scenes()
    batch["labels"][0] = torch.tensor([5, 3])
    with pytest.raises(ValueError, match=r"\[3\] are unknown to this detector; it was made for \[5, 9\]"):
        detector.loss(model, model(batch["image"]), batch)


def test_frozen_levels_keep_weights_and_statistics():
    net = OneStageNet(2, "resnet18", 16, pretrained=False, frozen=2)
    assert all(p.requires_grad for p in net.parameters())  # random weights are not worth keeping
    net.backbone.freeze(2)
    net.train()
    before = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    sum(m.square().mean() for m in net(torch.rand(2, 3, 64, 64))).backward()
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1).step()
    after = net.backbone.state_dict()
    changed = {k.rsplit(".", 1)[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all(name.startswith(("stages.2", "stages.3", "stages.4")) for name in changed)
    assert {name[:8] for name in changed} == {"stages.2", "stages.3", "stages.4"}


class _SmallBackbone(torch.nn.Module):
    """Five levels of one convolution each: all that coloured shapes need."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = [16, 24, 32, 32, 32]
        ends = zip([3, *self.channels[:-1]], self.channels, strict=True)
        self.levels = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.BatchNorm2d(b), torch.nn.ReLU()) for a, b in ends
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [images]
        for level in self.levels:
            features.append(level(features[-1]))
        return features[1:]


@pytest.mark.slow
def test_learns_one_batch(monkeypatch):
    monkeypatch.setattr(networks, "backbone", lambda *_: _SmallBackbone())
    torch.manual_seed(0)
    model = detector.Model(tiny())
    batch = scenes()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, 100)
    first = None
    for _ in range(100):
        optimiser.zero_grad()
        total = sum(detector.loss(model, model(batch["image"]), batch).values())
        first = first or float(total.detach())
        total.backward()
        optimiser.step()
        schedule.step()
    assert float(total.detach()) < 0.2 * first
    found = detector.predict(model, list(batch["image"]), score_threshold=0.3)
    assert model.training
    for i, detections in enumerate(found):
        assert sorted(detections.labels.tolist()) == sorted(batch["labels"][i].tolist())
        overlap = box2d.iou(batch["boxes"][i], detections.boxes) * (batch["labels"][i][:, None] == detections.labels)
        assert (overlap.amax(1) > 0.7).all() if len(detections) else len(batch["labels"][i]) == 0
        for n, m in enumerate(overlap.argmax(1).tolist() if len(detections) else []):
            a, b = batch["masks"][i][n], detections.masks[m]
            assert (a & b).sum() / (a | b).sum() > 0.6
    # the same picture, twice as large: boxes and masks follow
    large = torch.nn.functional.interpolate(batch["image"][:1], scale_factor=2.0, mode="bilinear")[0]
    (again,) = detector.predict(model, large, score_threshold=0.1)
    assert again.masks.shape[-2:] == (192, 256)
    red = again[again.labels == 5]
    assert box2d.iou(red.boxes[:1], 2 * batch["boxes"][0][:1]).item() > 0.6


# -------------------------------------------------------------------------------------------------------------- predict


@pytest.mark.slow
@pytest.mark.parametrize("config", [tiny(), tiny_two_stage()], ids=["small", "maskrcnn"])
def test_nothing_found_has_the_right_shapes(config):
    (found,) = detector.predict(detector.Model(config), torch.rand(3, 50, 70), score_threshold=1.0)
    assert isinstance(found, Detections)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 50, 70)
    assert found.labels.dtype == torch.int64
    assert found.masks.dtype == torch.bool


@pytest.mark.slow
@pytest.mark.parametrize("config", [tiny(), tiny_two_stage()], ids=["small", "maskrcnn"])
def test_everything_found_has_the_right_shapes(config):
    torch.manual_seed(0)
    model = detector.Model(config)
    frame = Frame(torch.rand(3, 60, 90), Camera(torch.eye(3), (60, 90)))
    found = detector.predict(model, [frame, torch.rand(3, 40, 40)], score_threshold=0.0, max_detections=7)
    assert [len(f) for f in found] == [7, 7]
    assert [tuple(f.masks.shape) for f in found] == [(7, 60, 90), (7, 40, 40)]
    for f in found:
        assert set(f.labels.tolist()) <= set(IDS)
        assert (f.scores.diff() <= 0).all()
        assert torch.isfinite(f.boxes).all()
        assert (f.boxes[:, 2:] > f.boxes[:, :2]).all()
    (alone,) = detector.predict(model, frame, score_threshold=0.0, max_detections=7)
    assert torch.allclose(alone.boxes, found[0].boxes, atol=1e-3)


def test_masks_of_two_of_a_kind_follow_the_votes():
    """Two overlapping discs: each cell goes to the centre it votes for, although it lies in both boxes."""
    model = detector.Model(tiny())
    batch = scenes()
    targets = detector.build_targets(model, batch)
    votes = torch.zeros(2, 24, 32)
    mine = targets.vote_cells[:, 0] == 1
    votes[:, targets.vote_cells[mine, 1], targets.vote_cells[mine, 2]] = targets.votes[mine].T
    semantic = 20.0 * torch.nn.functional.one_hot(targets.semantic[1], 3).permute(2, 0, 1).float()
    maps = detector.Maps(targets.heat[1], torch.zeros(2, 4, 24, 32), semantic, votes)
    masks = detector._instance_masks(maps, torch.tensor([1, 1]), batch["boxes"][1]) > 0.5
    cover = torch.nn.functional.avg_pool2d(batch["masks"][1].float(), STRIDE)
    assert not (masks[0] & masks[1]).any()
    assert ((masks != (cover >= 0.5)) & ((cover > 0.6) | (cover < 0.4))).sum() == 0


def test_bad_images_are_errors():
    model = detector.Model(tiny())
    for bad in (torch.rand(60, 90), torch.rand(1, 60, 90), torch.zeros(3, 60, 90, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="float RGB in"):
            detector.predict(model, bad)


def test_bad_configurations_are_errors():
    with pytest.raises(ValueError, match="names an object twice"):
        detector.small((1, 1))
    with pytest.raises(ValueError, match="multiple of 4"):
        detector.small((1,), image_height=241)
    with pytest.raises(ValueError, match="obj_ids is empty"):
        detector.Model(detector.Config())


# ----------------------------------------------------------------------------------------------------------- two stages


@pytest.mark.slow
def test_two_stages_train_and_keep_statistics_in_eval_mode():
    torch.manual_seed(0)
    model = detector.Model(tiny_two_stage())
    batch = {k: v[2:] for k, v in scenes().items()}
    losses = detector.loss(model, model(batch["image"]), batch)
    assert set(losses) == {"classifier", "box_reg", "mask", "objectness", "rpn_box_reg"}
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        detector.loss(model, model(batch["image"]), batch)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.net.net.rpn.training


def test_two_stage_boxes_may_leave_the_image():
    heads = detector.Model(tiny_two_stage()).net.net.roi_heads
    logits = torch.tensor([[0.0, 9.0, 0.0]])
    deltas = torch.zeros(1, 3, 4)
    deltas[..., 2] = 5.0 * torch.log(torch.tensor(3.0))  # three times as wide; 5 is torchvision's weight of log sizes
    boxes, scores, labels = heads.postprocess_detections(
        logits, deltas.flatten(1), [torch.tensor([[0.0, 20, 40, 60]])], [(96, 128)]
    )
    assert labels[0][0] == 1
    assert torch.allclose(boxes[0][0], torch.tensor([-40.0, 20, 80, 60]), atol=1e-3)
    assert scores[0][0] > 0.9


# ---------------------------------------------------------------------------------------------------------- several looks


class RedNet(torch.nn.Module):
    """Finds what is red, exactly, where it sees at least a cell of it: for looks at a picture that must agree."""

    def __init__(self):
        super().__init__()
        self.blind = None

    def forward(self, images):
        _, _, height, width = images.shape
        h, w = height // STRIDE, width // STRIDE
        maps = detector.Maps(
            torch.full((1, 2, h, w), -9.0), torch.zeros(1, 2, 4, h, w), torch.zeros(1, 3, h, w), torch.zeros(1, 2, h, w)
        )
        red = (images[0, 0] > 0.7) & (images[0, 1] < 0.3)
        if self.blind is not None and self.blind(images):
            red = torch.zeros_like(red)
        if red.sum() >= STRIDE**2:
            rows, columns = red.any(1).nonzero()[:, 0], red.any(0).nonzero()[:, 0]
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            box = torch.stack(edges).float()
            cell = ((box[:2] + box[2:]) / (2 * STRIDE)).floor()
            x, y = (int(v) for v in cell)
            maps.heat[0, 1, y, x] = 4.0
            maps.distances[0, 1, :, y, x] = detector.encode(box[None], cell[None])[0]
            cover = torch.nn.functional.avg_pool2d(red[None, None].float(), STRIDE)[0, 0]
            maps.semantic[0, 2] = 20 * cover
            middle = (box[:2] + box[2:]) / (2 * STRIDE)
            grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")).float()
            maps.votes[0] = middle[:, None, None] - grid - 0.5
        return maps


def red_picture(box, size=(96, 128)):
    image = torch.zeros(3, *size)
    x0, y0, x1, y1 = box
    image[0, y0:y1, x0:x1] = 1
    return image


def red_model(net=RedNet):
    model = detector.Model(tiny())
    model.net = net()
    model.config = replace(model.config, two_stage=net is RedTwoStage)
    return model


@pytest.mark.parametrize("box", [(46, 36, 78, 60), (8, 8, 36, 40), (100, 52, 124, 92)])
@pytest.mark.parametrize("looks", detector.LOOKS)
def test_looks_at_one_thing_agree_on_it(box, looks):
    """Mirrored and enlarged looks come back to the pixels of the picture; what all see keeps its score."""
    (found,) = detector.predict(red_model(), red_picture(box), score_threshold=0.5, looks=looks)
    assert found.labels.tolist() == [IDS[1]]
    torch.testing.assert_close(found.boxes[0], torch.tensor(box).float(), atol=1.0, rtol=0)
    assert found.scores[0].item() == pytest.approx(torch.tensor(4.0).sigmoid().item(), abs=1e-6)
    true = red_picture(box)[0] > 0
    assert (found.masks[0] & true).sum() / (found.masks[0] | true).sum() > 0.8
    (bare,) = detector.predict(red_model(), red_picture(box).half(), score_threshold=0.5, looks=looks, masks=False)
    assert bare.masks is None
    torch.testing.assert_close((bare.boxes, bare.scores), (found.boxes, found.scores), atol=1e-3, rtol=0)


class RedTwoStage(two_stage.TwoStageNet):
    """The same in two stages: a box, and a mask of 28 x 28 that fills it."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.blind = None

    def forward(self, images):
        return images

    def detect(self, images, score_threshold, max_detections, nms_iou):
        red = (images[0, 0] > 0.7) & (images[0, 1] < 0.3)
        if self.blind is not None and self.blind(images):
            red = torch.zeros_like(red)
        n = int(red.sum() >= STRIDE**2)
        box = box2d.from_masks(red[None])[:n]
        return [
            {"boxes": box, "labels": torch.full((n,), 2), "scores": torch.full((n,), 0.9), "masks": torch.ones(n, 1, 28, 28)}
        ]


@pytest.mark.parametrize("net", [RedNet, RedTwoStage])
@pytest.mark.parametrize("which", range(6))
def test_what_one_look_alone_sees_is_put_where_it_is(net, which):
    """Box and mask come back from the mirror and from every quarter; two views of three that see nothing cost two thirds."""
    model, calls = red_model(net), []
    model.net.blind = lambda images: calls.append(1) or len(calls) != which + 1
    box = (46, 36, 62, 60)  # in every quarter, and apart from its mirror image
    picture = red_picture(box)
    (found,) = detector.predict(model, picture, score_threshold=0.2, looks=6)
    assert len(calls) == 6
    one = 0.9 if net is RedTwoStage else torch.tensor(4.0).sigmoid().item()
    assert found.scores.tolist() == [pytest.approx(one / 3, abs=1e-6)]
    torch.testing.assert_close(found.boxes[0], torch.tensor(box).float(), atol=1.0, rtol=0)
    true = picture[0] > 0
    assert (found.masks[0] & true).sum() / (found.masks[0] | true).sum() > 0.75


def look(view, window, boxes, scores, which=None):
    """A look that found these boxes; its masks are not asked for."""
    which = torch.zeros(len(scores), dtype=torch.int64) if which is None else torch.tensor(which)
    return detector._Look(view, window, which, torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), lambda rows: None)


WHOLE = (0, 0, 100, 100)


def test_boxes_of_different_looks_meet_at_their_weighted_mean():
    seen = [
        look(0, WHOLE, [[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]], [0.8, 0.5]),
        look(1, WHOLE, [[1.0, 0.0, 11.0, 10.0], [0.0, 0.0, 10.0, 10.0]], [0.4, 0.6], [0, 1]),
    ]
    found = detector._agreed(seen, (100, 100))
    x = 0.4**2 / (0.8**2 + 0.4**2)
    assert found.which.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.boxes, torch.tensor([[x, 0, 10 + x, 10], [0, 0, 10, 10], [50, 50, 60, 60]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.3, 0.25]))  # of the best, alone in class, alone in place
    assert found.look.tolist() == [0, 1, 0]
    assert found.row.tolist() == [0, 1, 1]
    nothing = detector._agreed([look(0, WHOLE, [], []), look(1, WHOLE, [], [])], (100, 100))
    assert nothing.boxes.shape == (0, 4)


def test_two_of_a_kind_stay_two():
    """Neighbours that overlap by 0.54 in every look, and a faint box between them that is like both."""
    a, b, between = [0.0, 0.0, 20.0, 10.0], [6.0, 0.0, 26.0, 10.0], [3.0, 0.0, 23.0, 10.0]
    assert box2d.iou(torch.tensor([a]), torch.tensor([b])).item() == pytest.approx(14 / 26)
    both = look(0, WHOLE, [a, b], [0.9, 0.8]), look(1, WHOLE, [a, b], [0.9, 0.8])
    found = detector._agreed(both, (100, 100))
    torch.testing.assert_close(found.boxes, torch.tensor([a, b]))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    apart = look(0, WHOLE, [a], [0.9]), look(1, WHOLE, [b], [0.8]), look(2, WHOLE, [between], [0.05])
    assert detector._agreed(apart, (100, 100)).scores.max() < 0.6  # the faint one lends its neighbours nothing of each other


def test_the_enlarged_view_is_not_asked_about_what_no_quarter_shows():
    """A thing as large as the picture keeps its score; one that a quarter shows and does not find loses a third."""
    quarters = [look(2, (y, x, 67, 67), [], []) for y in (0, 33) for x in (0, 33)]
    large, small = [0.0, 0.0, 100.0, 100.0], [10.0, 10.0, 30.0, 30.0]
    seen = [look(0, WHOLE, [large, small], [0.9, 0.6]), look(1, WHOLE, [large, small], [0.9, 0.6]), *quarters]
    torch.testing.assert_close(detector._agreed(seen, (100, 100)).scores, torch.tensor([0.9, 0.4]))


def test_the_mask_of_the_whole_picture_is_taken_where_there_is_one():
    quarter = look(2, (0, 0, 67, 67), [[10.0, 10.0, 30.0, 30.0]], [0.9])
    seen = [look(0, WHOLE, [], []), look(1, WHOLE, [[11.0, 10.0, 31.0, 30.0]], [0.3]), quarter]
    found = detector._agreed(seen, (100, 100))
    assert (found.look.tolist(), found.row.tolist()) == ([1], [0])
    assert detector._agreed([seen[0], look(1, WHOLE, [], []), quarter], (100, 100)).look.tolist() == [2]


def test_another_number_of_looks_is_an_error():
    with pytest.raises(ValueError, match="looks must be one of 1, 2, 6, got 3"):
        detector.predict(detector.Model(tiny()), torch.rand(3, 60, 90), looks=3)


def test_the_command_line_offers_these_looks():
    assert typing.get_args(typing.get_type_hints(options.DetectorOptions)["looks"]) == detector.LOOKS
    assert pipeline.LOOKS == 6  # as its help says


def test_mask_rcnn_starts_from_coco_but_for_what_belongs_to_classes(monkeypatch):
    """The published start, where the weights can be had; a network of other classes keeps its own last layer."""
    coco, own = (torch.nn.ModuleDict({"body": torch.nn.Linear(3, 4), "last": torch.nn.Linear(4, n)}) for n in (91, 3))
    before = own.last.weight.clone()
    two_stage.start_from_coco(own, coco.state_dict())
    assert torch.equal(own.body.weight, coco.body.weight)
    assert torch.equal(own.last.weight, before)
    asked = []
    monkeypatch.setattr(two_stage, "_coco_weights", lambda: asked.append("coco") or {"nothing": before})
    monkeypatch.setattr(two_stage, "maskrcnn_resnet50_fpn_v2", lambda **how: asked.append(how) or _Net())
    two_stage.TwoStageNet(2, pretrained=True)
    assert asked[0] == "coco"
    assert asked[1]["weights_backbone"] is None
    monkeypatch.setattr(two_stage, "_coco_weights", lambda: None)
    two_stage.TwoStageNet(2, pretrained=True)
    assert asked[2]["weights_backbone"] is two_stage.ResNet50_Weights.IMAGENET1K_V1


class _Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.roi_heads = RoIHeads(None, None, None, 0.5, 0.5, 1, 0.5, None, 0.5, 0.5, 1)
