"""Fitting: a generator's own pictures are explained, hidden pixels do not count, votes, metric poses."""

import math
from dataclasses import replace

import pytest
import torch

from monopose.category import fitting
from monopose.category import model as category
from monopose.category import view as view_ops
from monopose.category.fitting import CandidateViews, FitConfig, Phase
from monopose.geometry import rotation, viewpoints
from monopose.types import Camera, Detections, Frame

TINY = replace(
    category.small("mug"), shape_code=4, look_code=3, volume=(6, 5, 4), projection=8, decoder=(8, 6), encoder=(4, 6, 6, 6),
    hidden=6, azimuth_bins=8,
)  # fmt: skip
QUICK = FitConfig((Phase(4, 2), Phase(2, 2)), features="pyramid", align=False, gain=-10.0)  # its pose head knows nothing


class Painted(category.Model):
    """A generator that needs no training: soft balls of three colours around the origin, one the code can move."""

    def __init__(self, config=TINY):
        torch.manual_seed(0)
        super().__init__(config)
        self.generator.forward = self.paint

    def paint(self, shape, look, cam_from_obj):
        n, places = 64, torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0, 0.35]])
        colours = torch.tensor([[0.2, 0.3, 0.9], [0.9, 0.2, 0.1], [0.2, 0.8, 0.3]])
        axis = (torch.arange(n) + 0.5) * (2 / n) - 1
        at = places @ cam_from_obj.mT  # (B, 3, 3)
        near = at[..., 2:]
        d2 = (axis - at[..., :1]).square()[:, :, None, :] + (axis - at[..., 1:2]).square()[:, :, :, None]
        ball = torch.exp(-d2 / 0.06) * torch.exp(-2 * near)[..., None]  # (B, 3, n, n)
        rgb = torch.einsum("bknm,kc->bcnm", ball, colours) / ball.sum(1, keepdim=True).clamp_min(1e-6)
        alpha = 1 - torch.exp(-3 * ball.sum(1, keepdim=True))
        return torch.cat([rgb, alpha], 1).clamp(1e-4, 1 - 1e-4).logit() + 0 * look.sum()


def target(model, view):
    made = model.synthesise(torch.zeros(1, 7), torch.tensor([view]))
    return made.image[0], made.alpha[0]  # where both are mixed, the mask says how much the object shows


@pytest.mark.parametrize("azimuth", [0.9, 4.0])
def test_the_pose_of_its_own_picture_is_found(azimuth):
    phases = (Phase(12, 10, 1.5), Phase(3, 25), Phase(1, 40, 0.3))
    model, config = Painted().eval(), FitConfig(phases, features="pyramid", head_weight=0.0, prior_weight=0.0, patience=99)
    true = [azimuth, 0.5, 0.1, 0.1, -0.05, 0.85]
    found = fitting.fit(model, *target(model, true), config)
    R = viewpoints.rotation_of(torch.tensor(true[:3]))
    away = rotation.angle_between(viewpoints.rotation_of(torch.stack(found.view[:3])), R)
    assert math.degrees(float(away)) < 2
    assert (found.view.shift - torch.tensor([0.1, -0.05])).abs().max() < 0.02
    assert abs(float(found.view.scale) / 0.85 - 1) < 0.03
    assert found.features == "pyramid"


def test_many_start_few_go_on_and_each_keeps_its_best():
    model = Painted().eval()
    config = replace(QUICK, phases=(Phase(6, 3), Phase(2, 4)), patience=100)
    found = fitting.fit(model, *target(model, [1.0, 0.4, 0, 0, 0, 0.9]), config)
    assert [len(m.losses) for m in found.history] == [6] * 4 + [2] * 5
    assert len(found.losses) == 2
    first = found.history[0].starts
    assert sorted(first.tolist()) == list(range(6))
    kept = found.history[-1].starts
    least = torch.stack([m.losses for m in found.history[:4]]).amin(0)
    assert set(kept.tolist()) == set(least.sort().indices[:2].tolist())
    for k, start in enumerate(kept.tolist()):
        seen = [float(m.losses[m.starts.tolist().index(start)]) for m in found.history]
        assert float(found.losses[k]) == pytest.approx(min(seen))
    assert found.least == int(found.losses.argmin())


def test_it_stops_early_when_nothing_gets_better():
    model = Painted().eval()
    still = replace(QUICK, lr_azimuth=0, lr_elevation=0, lr_inplane=0, lr_shift=0, lr_scale=0, lr_code=0)
    config = replace(still, phases=(Phase(3, 30),), patience=4)
    assert len(fitting.fit(model, *target(model, [1.0, 0.4, 0, 0, 0, 0.9]), config).history) == 5


def test_the_same_seed_gives_the_same_fit_and_the_network_stays_as_it_was():
    model = Painted().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    image, mask = target(model, [1.0, 0.4, 0, 0, 0, 0.9])
    a, b, c = (fitting.fit(model, image, mask, QUICK, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(a.views.values, b.views.values)
    assert torch.equal(a.views.codes, b.views.codes)
    assert not torch.equal(a.views.codes, c.views.codes)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_pixels_that_are_hidden_do_not_count():
    model = Painted().eval()
    image, mask = target(model, [1.0, 0.4, 0, 0, 0, 0.9])
    known = torch.ones(64, 64)
    known[:, 40:] = 0
    other = image.clone()
    other[:, :, 40:] = torch.rand(3, 64, 24)
    filled = mask.clone()
    filled[:, 40:] = torch.rand(64, 24)
    goals = [fitting._PhotometricLoss(model, i, m, known, QUICK) for i, m in ((image, mask), (other, filled))]
    views = CandidateViews(torch.tensor([[0.5, 0.4, 0, 0, 0, 0.9], [1.0, 0.4, 0, 0, 0, 0.9]]), torch.zeros(2, 7))
    assert torch.allclose(goals[0].losses(views), goals[1].losses(views), atol=1e-6)
    moved = fitting._PhotometricLoss(model, other, filled, torch.ones(64, 64), QUICK).losses(views)
    assert not torch.allclose(moved, goals[0].losses(views), atol=1e-2)


def test_symmetric_objects_keep_their_azimuth():
    model = Painted(replace(TINY, symmetric=True)).eval()
    found = fitting.fit(model, *target(model, [0.0, 0.4, 0, 0, 0, 0.9]), QUICK)
    assert all((m.views.values[:, 0] == 0).all() for m in found.history)
    assert len({round(float(v), 4) for v in found.history[0].views.values[:, 1]}) > 2


def test_starts_cover_the_circle_and_the_proposal():
    logits = torch.full((8,), -20.0)
    logits[[1, 5]] = math.log(0.5)
    angles = fitting._proposed(logits, torch.tensor(0.3), 6, torch.Generator().manual_seed(0))
    bins = (angles[:, 0] / (math.pi / 4)).round().remainder(8).tolist()
    assert sorted(set(bins)) == [1, 5]  # both places of an ambiguous view
    assert float(angles[0, 1]) == pytest.approx(0.3)
    model = Painted().eval()
    config = replace(QUICK, phases=(Phase(12, 0),), proposals=0.0)
    found = fitting.fit(model, *target(model, [1.0, 0.4, 0, 0, 0, 0.9]), config)
    azimuths = found.history[0].views.values[:, 0].sort().values
    assert torch.allclose(azimuths.diff(), torch.full((11,), math.pi / 6), atol=1e-5)
    wide = fitting.published()
    assert wide.phases == (Phase(32, 50),)
    assert wide.select == "vote"


def test_silhouettes_are_laid_on_the_mask():
    model = Painted().eval()
    _, mask = target(model, [1.0, 0.4, 0, 0.2, -0.15, 0.7])
    views = CandidateViews(torch.tensor([[1.0, 0.4, 0, 0, 0, 0.9]]), torch.zeros(1, 7))
    for _ in range(3):
        views = fitting.aligned(model, views, mask)
    assert (views.values[0, 3:] - torch.tensor([0.2, -0.15, 0.7])).abs().max() < 0.02


def test_votes_worked_by_hand():
    def ends(*azimuths):
        return torch.stack([torch.tensor([math.radians(a), 0.3, 0.0]) for a in azimuths])

    losses = torch.tensor([0.3, 0.1, 0.2, 0.4, 0.5, 0.9])
    assert fitting.vote(ends(40, 200, 42, 45, 90, 200), losses) == (1, 2, 3)  # three near 42; the last is not among five
    assert fitting.vote(ends(40, 200, 42, 45, 90, 200), losses, best=1) == (1, 1, 1)
    assert fitting.vote(ends(40, 200, 42, 45, 90, 200), losses, symmetric=True) == (1, 1, 5)  # one axis for all
    assert fitting.vote(ends(0, 120, 240, 60, 180, 300), losses) == (1, 1, 1)


def test_errors_say_what_was_expected():
    model = Painted().eval()
    with pytest.raises(ValueError, match=r"image must be \(3, 64, 64\)"):
        fitting.fit(model, torch.rand(3, 32, 32), torch.ones(64, 64))
    with pytest.raises(ValueError, match=r"known must be \(64, 64\)"):
        fitting.fit(model, torch.rand(3, 64, 64), torch.ones(64, 64), known=torch.ones(3, 64, 64))
    with pytest.raises(ValueError, match="mask is empty"):
        fitting.fit(model, torch.rand(3, 64, 64), torch.zeros(64, 64))


def photo(model, view, square, K, size=(120, 160)):
    """A photo in which the painted object stands in a crop as a view says."""
    made = model.synthesise(torch.zeros(1, 7), view.stacked()[None])
    x0, y0, x1, y1 = (int(v) for v in square)
    image, mask = torch.full((3, *size), 0.5), torch.zeros(size, dtype=torch.bool)
    big = torch.nn.functional.interpolate(torch.cat([made.over(), made.alpha[:, None]], 1), (y1 - y0, x1 - x0), mode="bilinear")
    image[:, y0:y1, x0:x1], mask[y0:y1, x0:x1] = big[0, :3], big[0, 3] > 0.5
    return Frame(image, Camera(K, size)), mask


@pytest.fixture(scope="module")
def scene():
    model = Painted(replace(TINY, size_mean=0.15, size_spread=0.1)).eval()
    K = torch.tensor([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]])
    square = torch.tensor([60.0, 20, 140, 100])
    view = view_ops.View(*torch.tensor([0.9, 0.5, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor(0.7))
    frame, mask = photo(model, view, square, K)
    return model, frame, mask, view_ops.pose_from_view(view, K, square, 0.15)


def test_predictions_are_metric_poses_with_their_uncertainty(scene):
    model, frame, mask, true = scene
    masks = torch.stack([mask, torch.zeros_like(mask)])
    boxes = torch.tensor([[60.0, 20, 140, 100]]).expand(2, 4)
    found = Detections(torch.tensor([7, 7]), boxes, torch.tensor([0.9, 0.8]), masks)
    config = FitConfig((Phase(12, 10, 1.5), Phase(3, 25)), features="pyramid", head_weight=0.0)
    poses, fits = fitting.predict_traced(model, frame, found, config)
    assert len(poses) == 1  # the second has no pixels
    assert fits[0].metric
    assert poses.names == {7: "mug"}
    assert math.degrees(float(rotation.angle_between(poses.cam_from_obj[0, :3, :3], true[:3, :3]))) < 8
    t, wanted = poses.cam_from_obj[0, :3, 3], true[:3, 3]
    assert (t - wanted).norm() < 0.08 * wanted.norm()
    assert 0 < float(poses.scores[0]) <= 0.9
    along = t / t.norm() @ poses.covariance[0, :3, :3] @ (t / t.norm())
    assert float(along.sqrt()) == pytest.approx(0.1 * float(t.norm()), rel=0.01)
    assert (torch.linalg.eigvalsh(poses.covariance[0]) > 0).all()


def test_without_sizes_poses_are_not_metric_and_without_masks_there_are_none(scene):
    model, frame, mask, _ = scene
    free = Painted(TINY).eval()
    boxes = torch.tensor([[60.0, 20, 140, 100]])
    found = Detections(torch.tensor([1]), boxes, torch.ones(1), mask[None])
    poses, fits = fitting.predict_traced(free, frame, found, QUICK)
    assert not fits[0].metric
    sized = fitting.predict(model, frame, Detections(torch.tensor([1]), boxes, torch.ones(1), mask[None]), QUICK)
    assert torch.allclose(0.15 * poses.cam_from_obj[0, :3, 3], sized.cam_from_obj[0, :3, 3], rtol=1e-4)
    with pytest.raises(ValueError, match="needs a mask"):
        fitting.predict(model, frame, Detections(torch.tensor([1]), boxes, torch.ones(1)))
    assert len(fitting.predict(model, frame, Detections(*(torch.zeros(0, *s) for s in ((), (4,), (), (120, 160)))))) == 0


def test_what_another_object_covers_is_unknown_and_so_is_what_lies_beyond_the_photo():
    image = torch.rand(3, 40, 40)
    mask, other = torch.zeros(40, 40, dtype=torch.bool), torch.zeros(40, 40, dtype=torch.bool)
    mask[10:20, 10:20], other[10:20, 20:30] = True, True
    cut, inside, known = fitting.crop(image, mask, ~other, torch.tensor([[-8.0, 4, 24, 36]]), 32)
    assert cut.shape == (3, 32, 32)
    assert float(inside.sum()) == pytest.approx(100)
    assert (known[:, :8] < 1e-5).all()  # beyond the left edge
    assert (known[6:16, 28:32] < 1e-5).all()
    assert (known[20:, 8:] > 1 - 1e-5).all()


def test_steps_of_a_fit_can_be_drawn():
    model = Painted().eval()
    found = fitting.fit(model, *target(model, [1.0, 0.4, 0, 0, 0, 0.9]), QUICK)
    drawn = fitting.picture(model, found.history[0])
    best = int(found.history[0].losses.argmin())
    again = model.synthesise(*(getattr(found.history[0].views, k)[best][None] for k in ("codes", "values")))
    assert torch.equal(drawn.image, again.image)


def test_the_pose_heads_start_is_kept_where_nothing_explains_the_photo_better():
    model = Painted().eval()
    image, mask = target(model, [1.0, 0.4, 0, 0, 0, 0.9])
    still = {f"lr_{k}": 0.0 for k in ("azimuth", "elevation", "inplane", "shift", "scale", "code")}
    config = replace(QUICK, gain=0.01, proposals=1.0, sampled=False, **still)
    alone = replace(config, phases=(Phase(1, 2),))
    kept = fitting.fit(model, image, mask, alone)
    assert kept.kept_head
    assert torch.equal(kept.views.values[kept.chosen], kept.history[0].views.values[0])
    assert kept.head_loss == pytest.approx(float(kept.losses[kept.chosen]))
    better = fitting.fit(
        model, image, mask, replace(QUICK, gain=0.01, phases=(Phase(12, 10, 1.5), Phase(3, 30)), head_weight=0.0)
    )
    assert not better.kept_head
    assert float(better.losses[better.chosen]) < 0.99 * better.head_loss
    never = fitting.fit(model, image, mask, replace(config, gain=1.0, phases=(Phase(12, 10), Phase(3, 10))))
    assert never.kept_head  # no end can be so good


def test_the_pose_heads_opinion_is_a_prior():
    """Nothing where it is sure; interpolated between the middles of two bins; the slope is that of the finite difference."""
    logits = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()
    proposal = category.Proposal(logits, torch.tensor([0.3]), torch.zeros(1, 4))
    values = torch.zeros(4, 6)
    values[:, 1] = 0.3
    values[:, 0] = torch.tensor([0.0, math.pi / 2, math.pi / 4, -math.pi / 4])
    got = fitting.pose_head_nll(proposal, values, False, 0.14)
    assert torch.allclose(got, math.log(7) * torch.tensor([0.0, 1.0, 0.5, 0.5]), atol=1e-5)
    assert torch.equal(fitting.pose_head_nll(proposal, values, True, 0.14), torch.zeros(4))
    values[:, 1] = 0.3 + 0.14
    assert torch.allclose(fitting.pose_head_nll(proposal, values, True, 0.14), torch.full((4,), math.log(1.5)), atol=1e-5)
    at = torch.tensor([[0.5, 0.2, 0, 0, 0, 1.0]], dtype=torch.float64, requires_grad=True)
    exact = category.Proposal(logits.double(), torch.tensor([0.3]).double(), torch.zeros(1, 4))
    assert torch.autograd.gradcheck(lambda v: fitting.pose_head_nll(exact, v, False, 0.14), (at,))


def test_all_starts_can_begin_at_one_view():
    model = Painted().eval()
    begin = torch.tensor([1.0, 0.4, 0.1, 0.0, 0.05, 0.8])
    found = fitting.fit(model, *target(model, [1.0, 0.4, 0, 0, 0, 0.9]), QUICK, start=begin)
    assert torch.equal(found.history[0].views.values, begin.expand(4, 6))
    assert found.seen.shape == (5, 64, 64)


def test_symmetric_objects_get_poses_with_an_uncertainty_too(scene):
    _, frame, mask, _ = scene
    model = Painted(replace(TINY, symmetric=True, size_mean=0.15, size_spread=0.1)).eval()
    boxes = torch.tensor([[60.0, 20, 140, 100]])
    poses = fitting.predict(model, frame, Detections(torch.tensor([1]), boxes, torch.ones(1), mask[None]), QUICK)
    assert (torch.linalg.eigvalsh(poses.covariance[0]) > 0).all()
    a, b = viewpoints.rotation_of(torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.5, 0.0]]))
    apart = fitting.rotation_distance(torch.stack([a, b]), b, True)
    assert torch.allclose(apart, torch.tensor([0.3, 0.0]), atol=1e-3)
