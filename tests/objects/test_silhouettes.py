"""Outlines beside what a pose promises: the geometry of a change, what is drawn, the samples, the loss, and where poses go."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import shapes
from torch import nn

from monopose.geometry import rotation, se3
from monopose.objects import samples, silhouettes
from monopose.render import maps
from monopose.render.raster import rasterize
from monopose.synthesis import fused
from monopose.synthesis.samples import Source
from monopose.types import Camera, Frame, PoseEstimates, Symmetries

CONFIG = silhouettes.Config(pretrained=False, frozen_levels=0, widths=(16, 16, 8, 8), drawn=(8, 8, 8))
CAMERA = Camera(torch.tensor([[500.0, 0, 160], [0, 500, 120], [0, 0, 1]]), (240, 320))


def _pose(turn: list[float], t: list[float]) -> torch.Tensor:
    return se3.from_rt(rotation.so3_exp(torch.tensor(turn)), torch.tensor(t))


def test_a_change_of_distance_keeps_the_place_in_the_picture() -> None:
    start = _pose([0.1, 0.2, 0.3], [0.05, -0.02, 0.5])
    end = silhouettes.changed(start, torch.tensor([0, 0, math.log(1.5), 0, 0, 0]), torch.zeros(3), 0.1)
    assert end[:3, 3].tolist() == pytest.approx([0.075, -0.03, 0.75], abs=1e-6)
    assert torch.allclose(end[:3, :3], start[:3, :3])


def test_a_step_across_the_line_of_sight_counts_in_diameters() -> None:
    here = _pose([0.0, 0, 0], [0.0, 0.0, 0.8])
    there = silhouettes.changed(here, torch.tensor([0.2, -0.1, 0, 0, 0, 0]), torch.zeros(3), 0.1)
    assert there[:3, 3].tolist() == pytest.approx([0.02, -0.01, 0.8], abs=1e-6)


def test_objects_turn_about_their_middle_wherever_the_origin_is() -> None:
    centre = torch.tensor([0.3, -0.2, 0.5])
    start = _pose([0.4, 0.1, -0.3], [0.1, 0.0, 0.9])
    turned = silhouettes.changed(start, torch.tensor([0, 0, 0, 0.2, -0.1, 0.3]), centre, 0.1)
    assert torch.allclose(se3.transform(start, centre[None]), se3.transform(turned, centre[None]), atol=1e-6)
    angle = rotation.angle_between(start[:3, :3], turned[:3, :3])
    assert float(angle) == pytest.approx(math.sqrt(0.14), abs=1e-5)


def test_a_field_says_where_drawn_points_lie_under_the_true_pose() -> None:
    """A plate that faces the camera and comes nearer: displacements grow in proportion to the place beside the middle."""
    plate = shapes.box((0.1, 0.1, 1e-4))
    K = np.array([[300.0, 0, 31.5], [0, 300, 31.5], [0, 0, 1]])
    start, true = _pose([0.0, 0, 0], [0.0, 0.0, 0.6]), _pose([0.0, 0, 0], [0.0, 0.0, 0.5])
    moves, shown = silhouettes.field(plate, start, true, K, 64)
    assert int(shown.sum()) == pytest.approx(50 * 50, rel=0.05)
    x = torch.arange(64.0) - 31.5
    assert torch.allclose(moves[0][shown], (0.2 * x[None].expand(64, 64))[shown], atol=0.01)
    assert torch.allclose(moves[1][shown], (0.2 * x[:, None].expand(64, 64))[shown], atol=0.01)
    assert not moves[:, ~shown].any()


@pytest.mark.parametrize("painted", [False, True])
def test_what_is_drawn_is_what_the_readable_renderer_draws(painted: bool) -> None:
    model = shapes.box((0.06, 0.04, 0.08))
    model = model if painted else replace(model, colors=None)
    pose, side = _pose([0.5, -0.3, 0.2], [0.01, 0.0, 0.5]), 64
    K = torch.tensor([[500.0, 0, 31.5], [0, 500, 31.5], [0, 0, 1]])
    drawn = torch.from_numpy(fused.prior(model, pose.double().numpy(), K.double().numpy(), side))
    points = se3.transform(pose, model.vertices)[None]
    fragments = rasterize(points, model.faces, K, (side, side))
    seen = fragments.face[0] >= 0
    assert torch.equal(drawn[0] > 0, seen)
    place = maps.interpolate(fragments, model.faces, points)[0]
    depth = (place[..., 2] - pose[2, 3]) / (model.diameter / 2)
    assert torch.allclose(drawn[1][seen], depth[seen], atol=1e-4)
    assert not drawn[1:, ~seen].any()
    albedo = torch.full_like(place, fused.GREY)[None]
    if painted:
        albedo = maps.interpolate(fragments, model.faces, model.colors)
    normals = maps.normals(fragments, model.faces, points, (model.normals @ pose[:3, :3].T)[None])
    light = maps.Lights(torch.full((3,), 0.35), torch.tensor([[0.0, 0, -1]]), torch.full((1, 3), 0.65))
    wanted = maps.shade(albedo, normals, place[None], light)[0].clamp(0, 1)
    assert torch.allclose(drawn[2:].permute(1, 2, 0)[seen], wanted[seen], atol=1e-3)


def _source(**symmetry) -> Source:
    return Source({1: shapes.box((0.06, 0.04, 0.08), symmetries=Symmetries(**symmetry))}, CAMERA)


def test_samples_lead_from_the_start_to_the_truth() -> None:
    source = _source()
    drawn = samples.PriorCropSamples(source, CONFIG, 8, seed=3)
    model = source.models[1]
    for i in range(8):
        sample = drawn[i]
        assert not torch.allclose(sample["start"], sample["cam_from_obj"], atol=1e-4)
        assert sample["image"].shape == (3, 128, 128)
        prior = fused.prior(model, sample["start"].double().numpy(), sample["K"].double().numpy(), 128)
        assert np.array_equal(sample["drawn"].numpy(), prior)
        answer = torch.cat([sample["field"] / silhouettes.UNIT, torch.zeros(1, 64, 64)])[None]
        output = silhouettes.Output(torch.zeros(1, 64, 64), torch.zeros(1, 64, 64), answer)
        seen = silhouettes.Look(output, sample["box"][None], sample["image"][None], sample["drawn"][None])
        end, information = silhouettes.solved(seen, CAMERA.K, sample["start"][None], [model])
        assert torch.allclose(end[0], sample["cam_from_obj"], atol=1e-5)
        assert bool((torch.linalg.eigvalsh(information[0]) > 0).all())
    again = drawn[7]
    assert all(torch.equal(again[k], sample[k]) for k in sample)


def test_the_crop_does_not_give_the_truth_away() -> None:
    """It lies around the start: where the truth is in it, is as random as the start's error."""
    drawn = samples.PriorCropSamples(_source(), CONFIG, 40, seed=5)
    middle = torch.tensor([[0.0, 0, 0]])
    true, start = [], []
    for i in range(40):
        sample = drawn[i]
        for pose, places in ((sample["cam_from_obj"], true), (sample["start"], start)):
            seen = sample["K"] @ se3.transform(pose, middle)[0]
            places.append((seen[:2] / seen[2] - 63.5) / 128)
    assert torch.stack(start).std() < 0.5 * torch.stack(true).std()


def test_of_poses_that_look_alike_the_nearest_is_the_truth() -> None:
    half = torch.diag(torch.tensor([-1.0, -1, 1, 1]))
    source = _source(discrete=half[None])
    drawn = samples.PriorCropSamples(source, CONFIG, 10, seed=1)
    for i in range(10):
        sample = drawn[i]
        assert float(rotation.angle_between(sample["start"][:3, :3], sample["cam_from_obj"][:3, :3])) < math.pi / 2


def _batch(count: int = 4) -> dict[str, torch.Tensor]:
    drawn = samples.PriorCropSamples(_source(), CONFIG, count, seed=0)
    rows = [drawn[i] for i in range(count)]
    return {k: torch.stack([r[k] for r in rows]) for k in rows[0]}


def test_the_loss_is_least_at_the_truth() -> None:
    batch, model = _batch(), silhouettes.Model(CONFIG)
    pooled = [
        nn.functional.adaptive_avg_pool2d(batch[k].float(), 64).clamp(1e-6, 1 - 1e-6) for k in ("mask_full", "mask_visible")
    ]
    moves = torch.cat([batch["field"] / silhouettes.UNIT, torch.full((4, 1, 64, 64), silhouettes.SHARPEST)], 1)
    best = silhouettes.Output(*(p.logit() for p in pooled), moves)
    least = sum(silhouettes.loss(model, best, batch).values())
    for field in best._fields:
        for sign in (-0.3, 0.3):
            other = best._replace(**{field: getattr(best, field) + sign})
            if field == "field":
                other.field[:, 2] = silhouettes.SHARPEST
            assert sum(silhouettes.loss(model, other, batch).values()) > least, field


def test_the_deviation_that_fits_the_errors_best_is_half_their_mean_length() -> None:
    """Of two Laplace distributions: |x| + |y| of mean 2 b."""
    batch, model = _batch(1), silhouettes.Model(CONFIG)
    batch |= {"field": torch.zeros(1, 2, 64, 64), "shown": torch.ones(1, 64, 64, dtype=torch.bool)}
    wrong = torch.full((1, 2, 64, 64), 0.7)  # |x| + |y| = 1.4: b = 0.7

    def cost(spread: float) -> float:
        field = torch.cat([wrong, torch.full((1, 1, 64, 64), spread)], 1)
        return float(silhouettes.loss(model, silhouettes.Output(wrong[:, 0], wrong[:, 0], field), batch)["field"])

    best = cost(math.log(0.7))
    assert best == pytest.approx(model.config.field_weight * (2 + 2 * math.log(0.7)), abs=1e-6)
    assert best < min(cost(math.log(0.6)), cost(math.log(0.8)))


def test_every_parameter_that_learns_gets_a_gradient() -> None:
    batch, model = _batch(), silhouettes.Model(CONFIG)
    for layer in model.into:  # at first what is drawn has no weight there
        nn.init.normal_(layer.weight, std=0.1)
    sum(silhouettes.loss(model, model(batch["image"], batch["drawn"]), batch).values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


class _Knowing(nn.Module):
    """A network that is right where an object is white before black: the outline is the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.anchor = CONFIG, nn.Parameter(torch.zeros(()))

    def field(self, drawn: torch.Tensor) -> torch.Tensor:
        """It knows of no displacement."""
        return torch.cat([torch.zeros(len(drawn), 2, 64, 64), torch.full((len(drawn), 1, 64, 64), silhouettes.BLUNTEST)], 1)

    def forward(self, images: torch.Tensor, drawn: torch.Tensor) -> silhouettes.Output:
        whole = nn.functional.adaptive_avg_pool2d(images[:, 0], 64)
        logits = whole.clamp(1e-3, 1 - 1e-3).logit()
        return silhouettes.Output(logits, logits, self.field(drawn))


def _white_on_black(model, pose: torch.Tensor) -> Frame:
    fragments = rasterize(se3.transform(pose, model.vertices)[None], model.faces, CAMERA.K, CAMERA.size)
    return Frame((fragments.face >= 0).float().expand(3, -1, -1).clone(), CAMERA)


def test_a_pose_goes_to_the_outline_that_is_seen() -> None:
    model = shapes.box((0.06, 0.04, 0.08))
    true = _pose([0.5, -0.3, 0.2], [0.01, 0.0, 0.4])
    start = silhouettes.changed(true, torch.tensor([0.05, -0.03, 0.06, 0, 0, 0]), torch.zeros(3), model.diameter)
    poses = PoseEstimates(torch.tensor([1, 2]), torch.stack([start, start]), torch.ones(2), None, None)
    moved, traces = silhouettes.predict_traced(_Knowing(), _white_on_black(model, true), poses, {1: model})
    before, after = ((p[:3, 3] - true[:3, 3]).norm() for p in (start, moved.cam_from_obj[0]))
    assert before > 0.02
    assert after < 0.15 * before
    assert torch.equal(moved.cam_from_obj[1], start)  # without a CAD model it stays
    assert [t.row for t in traces] == [0]
    assert torch.equal(traces[0].after, moved.cam_from_obj[0])


def test_poses_that_cannot_be_drawn_stay_as_they_are() -> None:
    model = shapes.box((0.06, 0.04, 0.08))
    true = _pose([0.5, -0.3, 0.2], [0.01, 0.0, 0.4])
    behind, broken = true.clone(), true.clone()
    behind[2, 3] = -0.4
    near, tiny = true.clone(), true.clone()
    near[2, 3], tiny[2, 3] = 0.02, 4000.0  # the camera is inside the object; it is a hundredth of a pixel wide
    broken[0, 0] = math.nan
    poses = PoseEstimates(torch.tensor([1, 1, 1, 1]), torch.stack([behind, broken, near, tiny]), torch.ones(4), None, None)
    network, frame = _Knowing(), _white_on_black(model, true)
    moved = silhouettes.predict(network, frame, poses, {1: model})
    assert torch.equal(moved.cam_from_obj.nan_to_num(9), poses.cam_from_obj.nan_to_num(9))
    assert len(silhouettes.predict(network, frame, poses[torch.zeros(4, dtype=torch.bool)], {1: model})) == 0
