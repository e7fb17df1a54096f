"""The refiner: geometry of a round, what each loss teaches, learning by heart, and that no object harms another."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from monopose import weights
from monopose.commands import demo
from monopose.datasets.bop import models as bop_models
from monopose.geometry import camera as camera_ops
from monopose.geometry import rotation, se3
from monopose.objects import refinement, refiner, refiner_networks, training
from monopose.objects import samples as object_samples
from monopose.render.scene import render_scene
from monopose.synthesis import bop_folder
from monopose.synthesis import samples as crop_samples
from monopose.synthesis import scene as synth
from monopose.types import Camera, Symmetries
from shapes import box, half_turn
from tiny_networks import TinyBackbone

CAMERA = Camera(camera_ops.K_from_fov(math.radians(60), (240, 320)), (240, 320))
PLAIN = box((0.1, 0.07, 0.12), cells=4)
SYMMETRIC = dataclasses.replace(
    box((0.06, 0.06, 0.1), obj_id=2, cells=5, symmetries=Symmetries(discrete=half_turn(2)[None])), colors=None
)
OBJECTS = {1: PLAIN, 2: SYMMETRIC}
TINY = refiner.Config(
    (1, 2), pretrained=False, frozen_levels=0, window_size=96, crop_size=64, widths=(24, 24, 24), features=24, hidden=24,
    motion=16, context=16, descriptor=8, surface_points=64, surface_width=16, levels=2, radius=3, train_outer=2, train_inner=2,
    outer=2, inner=2,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(refiner_networks, "backbone", lambda *_: TinyBackbone((8, 16, 24, 32, 32), bias=True))


def network(config=TINY, objects=OBJECTS):
    torch.manual_seed(0)
    return refiner.Model(config, objects)


def silent(model):
    """Says that nothing moved: no change, and the look-up weighs all of its window alike."""
    nn.init.zeros_(model.update.change.weight)
    nn.init.constant_(model.log_sharpness, -50.0)
    return model


def samples(config=TINY, seed=3, objects=OBJECTS):
    placed = synth.SceneConfig(objects=(1, 1), distractors=(0, 0), distance=(0.4, 0.6))
    windows = object_samples.CropSamples(
        crop_samples.Source(objects, CAMERA, (), placed),
        config.window_size,
        config.window_size // 2,
        config.window_scale,
        0.0,
        seed=seed,
    )
    return object_samples.PerturbedPoseSamples(windows, objects, 15.0, 0.1, seed)


@pytest.fixture(scope="module")
def batch():
    """Four windows of both objects."""
    return collated(4)


def collated(count, **more):
    drawn = samples(**more)
    return torch.utils.data.default_collate([drawn[i] for i in range(count)])


def forward(model, batch):
    return model(batch["image"], batch["label"], batch["K"], batch["start"])


def fresh(model, batch, seed=0):
    """Losses with the same random pairs every time."""
    torch.manual_seed(seed)
    return refiner.loss(model, forward(model, batch), batch)


# ---------------------------------------------------------------------------------------------------- geometry of one round


def bundled():
    """All bundled objects, 0.5 m away, and poses 15 degrees and 3 cm beside."""
    objects = [refiner.prepare_object(m, TINY) for m in bop_models.read_models(demo.folder() / "objects").values()]
    g, count = torch.Generator().manual_seed(1), len(bop_models.read_models(demo.folder() / "objects"))
    R = rotation.so3_exp(2 * torch.randn(count, 3, generator=g))
    truth = se3.from_rt(R, torch.tensor([0.03, -0.02, 0.5]).expand(count, 3))
    axis, way = (torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=1) for _ in range(2))
    return objects, truth, se3.retract(truth, torch.cat([0.03 * way, math.radians(15) * axis], 1))


def rendered(objects, pose, image=None, config=TINY):
    """A round at `pose` with a network that says nothing."""
    model = network(config).eval()
    image = torch.full((3, *CAMERA.size), 0.5) if image is None else image
    with torch.no_grad():
        return model.round(model.gather(objects, "cpu"), image, CAMERA.K.expand(len(pose), 3, 3), pose, 1)


def far(pose, truth):
    """Degrees and millimetres."""
    angle = torch.rad2deg(rotation.angle_between(pose[:, :3, :3], truth[:, :3, :3]))
    return float(angle.max()), 1e3 * float((pose[:, :3, 3] - truth[:, :3, 3]).norm(dim=1).max())


def test_the_true_field_leads_to_the_true_pose_in_three_steps(tiny):
    objects, truth, start = bundled()
    now = rendered(objects, start)
    target = refiner._project(now.coordinates, truth, now.K)
    even = now.mask[..., None].expand_as(target).float()
    assert int(now.mask.flatten(1).sum(1).min()) > 50
    pose, seen = start, [far(start, truth)]
    assert seen[0][0] == pytest.approx(15, abs=0.1)
    assert seen[0][1] == pytest.approx(30, abs=0.1)
    for _ in range(3):
        pose = refiner._solve(now, target, even, pose, TINY.damping)
        seen.append(far(pose, truth))
    assert seen[-1][0] < 0.05
    assert seen[-1][1] < 0.1
    assert seen[1][0] < 8
    assert seen[1][1] < 20


def test_what_has_no_weight_changes_nothing(tiny):
    objects, truth, start = bundled()
    now = rendered(objects, start)
    target = refiner._project(now.coordinates, truth, now.K)
    trusted = (torch.rand(now.mask.shape, generator=torch.Generator().manual_seed(2)) < 0.5) & now.mask
    given = trusted[..., None].expand_as(target).float()
    lies = torch.where(trusted[..., None], target, target + 50 * torch.randn(target.shape))
    honest, lied = start, start
    for _ in range(3):
        honest, lied = (refiner._solve(now, t, given, p, TINY.damping) for t, p in ((target, honest), (lies, lied)))
        assert torch.equal(honest, lied)
    assert far(lied, truth)[0] < 0.05
    believed = refiner._solve(now, lies, now.mask[..., None].expand_as(target).float(), start, TINY.damping)
    assert far(believed, truth)[1] > 1  # the lies are big enough to be noticed


def test_without_any_weight_the_covariance_is_infinite(tiny):
    objects, truth, _ = bundled()
    now = rendered(objects, truth)
    step = now.steps[0]
    weights_of_none = step.weights.clone()
    weights_of_none[0] = 0
    found = refiner.covariance(now._replace(steps=[step._replace(weights=weights_of_none)]), objects)
    assert torch.isinf(found[0]).all()
    assert torch.isfinite(found[1:]).all()
    assert (torch.linalg.eigvalsh(found[1:]) > 0).all()


def test_without_any_weight_the_pose_stays_with_a_gradient_of_zero(tiny):
    objects, truth, start = bundled()
    now = rendered(objects, start)
    target = refiner._project(now.coordinates, truth, now.K).requires_grad_()
    nothing = torch.zeros_like(target).requires_grad_()
    after = refiner._solve(now, target, nothing, start, TINY.damping)
    assert torch.equal(after, start)
    after.square().sum().backward()
    assert torch.equal(target.grad, torch.zeros_like(target))
    assert torch.equal(nothing.grad, torch.zeros_like(nothing))


@pytest.mark.parametrize("flat", [False, True])
def test_gradient_of_a_step_by_field_and_weights(tiny, flat):
    """A box, and a square without thickness of which six pixels are seen."""
    model = box((0.08, 0.08, 1e-6), cells=2) if flat else PLAIN
    truth = se3.exp(torch.tensor([[0.01, 0.0, 0.5, 0.5, 0.4, 0.2]], dtype=torch.float64))
    now = rendered([refiner.prepare_object(model, TINY)], truth.float())
    few = now.mask.flatten(1).nonzero()[:, 1][:: 60 if flat else 25][: 6 if flat else 12]
    now = now._replace(coordinates=now.coordinates.flatten(1, 2)[:, few, None].double(), K=now.K.double())
    pose = se3.retract(truth, torch.tensor([[0.01, -0.02, 0.02, 0.1, -0.1, 0.05]], dtype=torch.float64))
    target = refiner._project(now.coordinates, truth, now.K).requires_grad_()
    given = torch.rand(target.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, w: refiner._solve(now, t, w, pose, 1e-3)[:, :3], (target, given))


def test_no_step_more_than_halves_the_distance(tiny):
    """A field that makes the picture 1.3 times as large moves the object nearer; one of 1.8 times would leave a fifth of the
    distance, and is shortened."""
    objects, truth, _ = bundled()
    now = rendered(objects[:1], truth[:1])
    even = now.mask[..., None].expand(*now.mask.shape, 2).float()
    here = refiner._project(now.coordinates, truth[:1], now.K)
    centre = refiner._project(torch.zeros_like(now.coordinates), truth[:1], now.K)
    nearer = refiner._solve(now, centre + 1.3 * (here - centre), even, truth[:1], 0.0)
    assert 0.25 < float(nearer[0, 2, 3]) < 0.45
    halved = refiner._solve(now, centre + 1.8 * (here - centre), even, truth[:1], 0.0)
    assert float(halved[0, 2, 3] / truth[0, 2, 3]) == pytest.approx(0.5)


def test_the_origin_of_the_file_does_not_matter(tiny):
    """The same object with its origin 0.4 m beside it: the same noise-free course, the same symmetries, the same result."""
    objects, _, start = bundled()
    model = network()
    picture = torch.rand(3, 120, 160, generator=torch.Generator().manual_seed(0))
    K = torch.tensor([[160.0, 0.0, 80.0], [0.0, 160.0, 60.0], [0.0, 0.0, 1.0]])
    shift = torch.tensor([0.4, -0.1, 0.2])
    there, back = torch.eye(4), torch.eye(4)
    there[:3, 3], back[:3, 3] = shift, -shift
    moved = [refiner.prepare_object(refiner.centred(o.model, -shift), TINY) for o in objects]
    for a, b in zip(objects, moved, strict=True):
        torch.testing.assert_close(b.model.vertices, a.model.vertices, atol=1e-6, rtol=0)
        torch.testing.assert_close(b.group, a.group, atol=1e-6, rtol=0)
    # where two points are equally far, rounding decides which of them carries a descriptor
    moved = [b._replace(surface=a.surface, rows=a.rows, shares=a.shares) for a, b in zip(objects, moved, strict=True)]
    one = refinement.refine(model, picture, K, objects, start, 1, 2)
    other = refinement.refine(model, picture, K, moved, start @ back, 1, 2)
    torch.testing.assert_close(other.rounds[0].steps[-1].after, one.rounds[0].steps[-1].after, atol=2e-4, rtol=0)
    torch.testing.assert_close(other.cam_from_obj @ there, one.cam_from_obj, atol=3e-4, rtol=0)


def test_the_covariance_is_as_large_as_the_guessed_error_whatever_the_origin(tiny):
    """Points moved by tangents drawn from it are as far away, in the mean, as the network guesses; and the tangent of a file
    whose origin is elsewhere moves the same points as far."""
    shift = torch.tensor([0.2, -0.1, 0.3])
    moved = dataclasses.replace(PLAIN, vertices=PLAIN.vertices + shift)
    objects = [refiner.prepare_object(m, TINY) for m in (PLAIN, moved)]
    pose = se3.from_rt(rotation.so3_exp(torch.tensor([[0.3, -0.5, 0.2]])), torch.tensor([[0.02, 0.01, 0.4]])).expand(2, 4, 4)
    now = rendered(objects, pose)
    guessed = torch.tensor([0.02, 0.02]).log()
    now = now._replace(steps=[now.steps[0]._replace(error=guessed)])
    found = refiner.covariance(now, objects)
    assert found.dtype == torch.float64
    files = refiner.from_centres(pose.double(), objects)
    drawn = torch.randn(4000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i, o in enumerate(objects):
        tangents = 1e-3 * drawn @ torch.linalg.cholesky(found[i]).mT  # small, so that the motion is its tangent
        points = o.points.double() + o.centre
        there = se3.transform(se3.retract(files[i].expand(4000, 4, 4), tangents), points)
        apart = 1e3 * (there - se3.transform(files[i], points)).abs().sum(-1).mean()
        assert float(apart) == pytest.approx(0.02 * o.model.diameter, rel=0.03)
    torch.testing.assert_close(found[0, 3:, 3:], found[1, 3:, 3:], rtol=1e-2, atol=1e-9)
    assert float(found[1, :3, :3].trace()) > 2 * float(found[0, :3, :3].trace())  # its origin is 37 cm away
    larger = refiner.covariance(now._replace(steps=[now.steps[0]._replace(error=guessed + math.log(3))]), objects)
    torch.testing.assert_close(larger, 9 * found, rtol=1e-4, atol=0)
    assert (larger[:, range(3), range(3)][:, 2] > larger[:, range(3), range(3)][:, 0])[0]  # depth is known least


@pytest.mark.parametrize("finer", [1, 2, 4])
def test_rendered_points_project_onto_their_own_pixels(tiny, finer):
    """No half pixel is lost between crop, camera of the crop, rendering and the choice of pixels."""
    objects, _, start = bundled()
    now = rendered(objects, start, config=dataclasses.replace(TINY, finer=finer))
    step = refiner.STRIDE // finer
    assert now.pixels.shape == (64 // step, 64 // step, 2)
    miss = refiner._project(now.coordinates, start, now.K) - now.pixels
    assert float(miss[now.mask].abs().max()) < 5e-3
    assert now.pixels[1, 2].tolist() == [2 * step + step // 2, step + step // 2]


def test_the_photo_is_cut_where_the_object_is_rendered(tiny):
    """At the true pose both crops are the same picture; moved by half a pixel they are not."""
    truth = se3.from_rt(rotation.so3_exp(torch.tensor([[0.5, 0.4, 0.2]])), torch.tensor([[0.03, -0.02, 0.5]]))
    big = CAMERA.resized((960, 1280))
    photo = render_scene([PLAIN], truth, big.K, big.size, None, torch.full((3, *big.size), 0.5)).image
    photo = torch.nn.functional.avg_pool2d(photo[None], 4)[0]
    now = rendered([refiner.prepare_object(PLAIN, TINY)], truth, photo)
    miss = {}
    for shift in (-0.5, 0.0, 0.5):
        grid = (camera_ops.pixel_grid((64, 64)) + shift)[None]
        miss[shift] = float((refiner_networks.sample(now.observed, grid) - now.rendered).abs()[:, :, 4:-4, 4:-4].mean())
    assert miss[0.0] < 0.02
    assert miss[0.0] < 0.6 * min(miss[-0.5], miss[0.5])
    assert miss[-0.5] == pytest.approx(miss[0.5], rel=0.2)


def test_pictures_are_normalised_once():
    """The original scaled [0, 1] as if it were [0, 255]: black and white became -1 and -0.99."""
    seen = []
    model = network().eval()
    model.features.backbone._conv_stem.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    truth = se3.from_rt(rotation.so3_exp(torch.tensor([[0.5, 0.4, 0.2]])), torch.tensor([[0.0, 0.0, 0.5]]))
    batch = model.gather([refiner.prepare_object(PLAIN, TINY)], "cpu")
    for value in (0.0, 1.0):
        with torch.no_grad():
            model.round(batch, torch.full((3, *CAMERA.size), value), CAMERA.K[None], truth, 1)
    (drawn, black), (_, white) = (s.chunk(2) for s in seen)
    torch.testing.assert_close(black, torch.full_like(black, -127 / 128), rtol=0, atol=1e-5)
    torch.testing.assert_close(white, torch.ones_like(white), rtol=0, atol=1e-5)
    assert float(drawn.max()) > 0.2
    assert float(drawn.min()) < -0.2


def test_places_are_not_rounded_under_autocast(tiny, monkeypatch, batch):
    """bfloat16 has eight bits: a pixel of a crop of 128 would be known to half a pixel."""
    model, found = network().eval(), []
    look_up = refiner_networks.look_up

    def watched(pyramid, centres, radius):
        found.append((pyramid[0], centres))
        return look_up(pyramid, centres, radius)

    monkeypatch.setattr(refiner_networks, "look_up", watched)
    with torch.no_grad():
        plain = model.round(model.gather([model.objects[1]] * 4, "cpu"), batch["image"], batch["K"], batch["start"], 1)
        with torch.autocast("cpu", torch.bfloat16):
            half = model.round(model.gather([model.objects[1]] * 4, "cpu"), batch["image"], batch["K"], batch["start"], 1)
    assert found[1][0].dtype == found[1][1].dtype == torch.float32
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-5)
    assert half.steps[0].after.dtype == torch.float32
    torch.testing.assert_close(half.steps[0].target, plain.steps[0].target, rtol=0, atol=0.1)  # what the network says differs


# ---------------------------------------------------------------------------------------------------------------- the losses


def test_objects_of_a_batch_do_not_meet(tiny, batch):
    """Different meshes, sizes and colours in one batch: each gets what it gets alone."""
    model = network().eval()
    model.update.change.bias.data[:2] = torch.tensor([0.3, -0.2])  # so that the poses move
    with torch.no_grad():
        together = forward(model, batch)
        assert batch["label"].unique().tolist() == [1, 2]
        for i in range(4):
            alone = forward(model, {k: v[i : i + 1] for k, v in batch.items()})
            for many, one in zip(together, alone, strict=True):
                torch.testing.assert_close(many.steps[-1].after[i], one.steps[-1].after[0], atol=2e-4, rtol=0)
                torch.testing.assert_close(many.rendered[i], one.rendered[0], atol=1e-3, rtol=0)
    assert float((together[-1].steps[-1].after - batch["start"]).abs().max()) > 1e-2


RECURRENT = {"features", "surface", "photo", "outline", "context", "update", "log_sharpness"}
REACHES = {
    "points": RECURRENT | {"log_sigma"},
    "flow": RECURRENT,
    "visible": RECURRENT,
    "descriptors": {"features", "surface", "photo"},
    "outline": {"features", "outline"},
    "score": RECURRENT | {"judge"},
}


def test_each_loss_reaches_the_parts_it_should():
    """The whole network with its own backbone: no parameter is left without a gradient, and none is not finite."""
    model = network()
    given = collated(3)
    losses = fresh(model, given)
    assert set(losses) == set(REACHES)
    reached = set()
    for name, value in losses.items():
        model.zero_grad()
        value.backward(retain_graph=True)
        assert math.isfinite(float(value.detach()))
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert all(bool(torch.isfinite(g).all()) for g in grads.values()), name
        moved = {n for n, g in grads.items() if bool((g != 0).any())}
        assert {n.split(".")[0] for n in moved} == REACHES[name], name
        reached |= moved
    assert {n for n, _ in model.named_parameters()} == reached


def finite_gradients(model, batch):
    model.zero_grad()
    losses = fresh(model, batch)
    sum(losses.values()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    return {k: float(v.detach()) for k, v in losses.items()}


def test_an_object_that_is_hidden_has_losses_too(tiny, batch):
    hidden = batch | {"mask_visible": torch.zeros_like(batch["mask_visible"])}
    losses = finite_gradients(network(), hidden)
    assert losses["descriptors"] == 0
    assert all(math.isfinite(v) for v in losses.values())
    assert min(losses[k] for k in ("points", "flow", "visible")) > 0


@pytest.mark.parametrize("shift", [(0.5, 0.0, 0.0), (0.0, 0.0, 2.0), (0.0, -3.0, 0.1)])
def test_a_start_beside_everything_has_losses_too(tiny, batch, shift):
    start = batch["start"].clone()
    start[:, :3, 3] += torch.tensor(shift)
    losses = finite_gradients(network(), batch | {"start": start})
    assert all(math.isfinite(v) for v in losses.values())
    assert losses["points"] > 0.5  # relative to the start: nothing tells where to go


def test_the_truth_costs_nothing_and_what_is_hidden_counts_as_hidden(tiny):
    """A network that says nothing, started at the truth: no distance, no field."""
    batch = collated(3, config=dataclasses.replace(TINY, window_size=288))
    model, at_truth = silent(network()), batch | {"start": batch["cam_from_obj"]}
    rounds = forward(model, at_truth)
    torch.manual_seed(0)
    losses = refiner.loss(model, rounds, at_truth)
    losses = {k: float(v.detach()) for k, v in losses.items()}
    assert losses["points"] < 1e-3
    assert losses["flow"] < 1e-3
    assert losses["visible"] == pytest.approx(TINY.visible_weight * math.log(2), rel=1e-3)
    objects = [model.objects[int(i)] for i in batch["label"]]
    diameter = torch.tensor([o.model.diameter for o in objects])
    now = rounds[0]
    goal = refiner._project(now.coordinates, batch["cam_from_obj"], now.K)
    seen = refiner._seen(now, batch["cam_from_obj"], goal, refiner._depth(batch), batch, diameter)
    share = batch["mask_visible"].flatten(1).sum(1) / batch["coordinates"].any(1).flatten(1).sum(1)
    found = seen.flatten(1).sum(1) / now.mask.flatten(1).sum(1)
    assert bool((share > 0.3).all())
    torch.testing.assert_close(found, share, atol=0.08, rtol=0)  # the rim's depth is not that of its neighbour pixel


def test_equivalent_truths_and_equivalent_starts_cost_the_same(tiny):
    """A turn under which the object looks the same, of the truth or of the start, changes no distance and no field."""
    given = collated(3, objects={2: SYMMETRIC})
    model = silent(network(objects={2: SYMMETRIC}))  # what the network says of a start depends on the frame it is given in
    turn = half_turn(2)
    other_truth = given | {
        "cam_from_obj": given["cam_from_obj"] @ turn,
        "coordinates": torch.einsum("ij,bjhw->bihw", turn[:3, :3].T, given["coordinates"]),
    }
    other_start = given | {"start": given["start"] @ turn}
    wrong = given | {"start": given["start"] @ half_turn(0)}
    losses, by_truth, by_start, by_wrong = (fresh(model, b) for b in (given, other_truth, other_start, wrong))
    for name in losses:
        torch.testing.assert_close(by_truth[name], losses[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_start["points"], losses["points"], rtol=0.02, atol=0)  # the points are not symmetric
    torch.testing.assert_close(by_start["flow"], losses["flow"], rtol=1e-3, atol=0)
    assert bool(by_wrong["flow"] > 2 * losses["flow"])


def test_twins_under_the_symmetry_are_the_same_point(tiny, monkeypatch):
    """What `_descriptor_loss` hands to the circle loss, pair by pair, and places beside the object as negatives of all."""
    pairs, model = [], network(objects={2: SYMMETRIC})
    along = se3.from_rt(rotation.so3_exp(torch.tensor([[0.3, 0.2, 0.0]])), torch.tensor([[0.0, 0.0, 0.5]]))  # shows an end
    now = rendered([model.objects[2]], along)
    with torch.no_grad():
        goal, seen = refiner._project(now.coordinates, along, now.K), now.mask

        def watched(similarity, positive, negative):
            pairs.append((similarity, positive, negative))
            return similarity.sum() * 0

        monkeypatch.setattr(refiner, "circle_loss", watched)
        monkeypatch.setattr(refiner, "softmax_loss", watched)
        torch.manual_seed(4)
        refiner._descriptor_loss(model, now, goal, seen, [model.objects[2]])
        torch.manual_seed(4)
        places = seen[0].flatten().nonzero()[:, 0]
        places = places[torch.randperm(len(places))[:96]]
    points = now.coordinates[0].flatten(0, 1)[places]
    radius = SYMMETRIC.diameter / 2
    plain = torch.cdist(points, points) / radius
    turned = torch.cdist(points, se3.transform(half_turn(2), points)) / radius
    similarity, positive, negative = pairs[0]
    n, beside = len(places), positive.shape[1] - len(places)
    assert beside > 2
    assert similarity.shape == positive.shape == negative.shape == (n, n + beside)
    assert torch.equal(positive[:, :n], (plain < TINY.pair_reach) | (turned < TINY.pair_reach))
    assert torch.equal(negative[:, :n], (plain > TINY.pair_far) & (turned > TINY.pair_far))
    assert bool(((turned < TINY.pair_reach) & (plain > TINY.pair_far)).any())  # there are twins far apart
    assert bool(negative[:, n:].all())
    assert not bool(positive[:, n:].any())


@pytest.mark.slow
def test_a_few_windows_are_learned_by_heart(tiny):
    """From poses alone the distance falls to a fraction: every part pulls in the right direction."""
    config = dataclasses.replace(TINY, train_outer=1, train_inner=1)
    model, given = network(config), collated(8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def distance():
        rounds = forward(model, given)
        objects = [model.objects[int(i)] for i in given["label"]]
        points = torch.stack([o.points for o in objects])
        truth = torch.stack([
            refiner.symmetry.nearest(t, s, o.group, o.points)
            for t, s, o in zip(given["cam_from_obj"], given["start"], objects, strict=True)
        ])  # fmt: skip
        ends = (given["start"], rounds[-1].steps[-1].after)
        return [float(refiner._distance(p, truth, points).mean().detach()) for p in ends]

    start = distance()[0]
    for step in range(STEPS):
        losses = fresh(model, given, seed=step)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    assert distance()[1] < 0.5 * start


STEPS = 60


# ------------------------------------------------------------------------------------------------------------------- refine


def scene():
    """A picture of four objects, and poses beside the true ones."""
    truth = se3.from_rt(
        rotation.so3_exp(torch.tensor([[0.5, 0.4, 0.2], [1.0, -0.3, 0.1], [2.0, 0.3, 0.5], [0.1, 0.1, 1.0]])),
        torch.tensor([[-0.1, 0.0, 0.5], [0.1, 0.05, 0.6], [0.0, -0.1, 0.55], [0.02, 0.1, 0.5]]),
    )
    models = [PLAIN, SYMMETRIC, PLAIN, SYMMETRIC]
    photo = render_scene(models, truth, CAMERA.K, CAMERA.size, None, torch.full((3, *CAMERA.size), 0.3)).image
    start = se3.retract(truth, 0.02 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    return photo, models, start


def moving():
    """A network that moves every pose, and holds every result for as good as its start."""
    model = silent(network()).eval()
    model.update.change.bias.data[:2] = torch.tensor([0.3, -0.2])
    for parameter in model.judge[2].parameters():
        nn.init.zeros_(parameter)
    return model


def bad(name):
    pose = se3.from_rt(torch.eye(3), torch.tensor([0.0, 0.0, 0.5]))
    shift = {"behind": (0, 0, -1.0), "half behind": (0, 0, -0.47), "outside": (1.0, 0, 0), "small": (0, 0, 7.0)}
    if name == "nan":
        pose[1, 2] = math.nan
    elif name == "infinite":
        pose[0, 3] = math.inf
    else:
        pose[:3, 3] += torch.tensor(shift[name])
    return pose


BAD = ("nan", "infinite", "behind", "half behind", "outside", "small")


def test_a_bad_pose_stays_and_the_others_do_not_notice(tiny):
    photo, models, start = scene()
    model = moving()
    objects = [refiner.prepare_object(m, TINY) for m in models]
    poses, known = [], []
    for i, name in enumerate(BAD):
        poses += [start[i % 4], bad(name)]
        known += [objects[i % 4], objects[(i + 1) % 4]]
    poses = torch.stack(poses)
    together = refinement.refine(model, photo, CAMERA.K, known, poses)
    alone = [refinement.refine(model, photo, CAMERA.K, [objects[i]], start[i : i + 1]) for i in range(4)]
    assert together.rows.tolist() == list(range(0, 12, 2))
    assert together.converged.tolist() == [True, False] * 6
    assert bool(torch.isinf(together.error[1::2]).all())
    torch.testing.assert_close(together.cam_from_obj[1::2], poses[1::2], rtol=0, atol=0, equal_nan=True)
    for i in range(6):
        expected = alone[i % 4]
        assert bool(expected.converged[0])
        torch.testing.assert_close(together.cam_from_obj[2 * i], expected.cam_from_obj[0], atol=2e-5, rtol=0)
        torch.testing.assert_close(together.error[2 * i], expected.error[0], atol=1e-4, rtol=0)
        assert float((expected.cam_from_obj[0] - start[i % 4]).abs().max()) > 1e-3


def test_nothing_to_refine(tiny):
    photo, models, _ = scene()
    model = moving()
    found = refinement.refine(model, photo, CAMERA.K, [], torch.zeros(0, 4, 4))
    assert found.cam_from_obj.shape == (0, 4, 4)
    assert found.converged.shape == found.error.shape == (0,)
    found = refinement.refine(model, photo, CAMERA.K, [refiner.prepare_object(models[0], TINY)], bad("behind")[None])
    assert torch.equal(found.cam_from_obj[0], bad("behind"))
    assert found.converged.tolist() == [False]
    K = CAMERA.K.clone()
    K[0, 0] = math.nan
    found = refinement.refine(model, photo, K, [refiner.prepare_object(models[0], TINY)], bad("small")[None])
    assert found.converged.tolist() == [False]


class Judge(nn.Module):
    """Says one number after another to all objects."""

    def __init__(self, *said):
        super().__init__()
        self.said = list(said)

    def forward(self, x):
        return torch.full((len(x), 1), self.said.pop(0))


@pytest.mark.parametrize("last", [-1.0, math.nan, math.inf])
def test_a_result_that_is_held_for_worse_is_not_taken(tiny, last):
    """2 outer x 2 inner steps and the judgement of the result; the first number judges the start."""
    photo, models, start = scene()
    model = moving()
    model.judge = Judge(-2.0, 9.0, 9.0, 9.0, last)
    objects = [refiner.prepare_object(m, TINY) for m in models]
    start = start.double() + 1e-9  # not a number that float32 has
    found = refinement.refine(model, photo, CAMERA.K, objects, start)
    assert torch.equal(found.cam_from_obj, start)
    assert not bool(found.converged.any())
    torch.testing.assert_close(found.error, torch.full((4,), math.exp(-2.0), dtype=torch.float64), rtol=1e-6, atol=0)
    model.judge = Judge(-2.0, 9.0, 9.0, 9.0, -2.5)
    found = refinement.refine(model, photo, CAMERA.K, objects, start)
    assert bool(found.converged.all())
    assert bool(((found.cam_from_obj - start).abs().flatten(1).amax(1) > 1e-3).all())
    torch.testing.assert_close(found.error, torch.full((4,), math.exp(-2.5), dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_result_out_of_the_picture_is_not_taken(tiny, monkeypatch):
    """There the judge sees grey and nothing else."""
    photo, models, start = scene()
    model = moving()
    away = start[:1].clone()
    away[:, 0, 3] += 2.0
    monkeypatch.setattr(refiner, "_solve", lambda *_: away)
    found = refinement.refine(model, photo, CAMERA.K, [refiner.prepare_object(models[0], TINY)], start[:1])
    assert found.converged.tolist() == [False]
    assert torch.equal(found.cam_from_obj, start[:1])


def test_iterations_and_pictures_of_each_object_are_as_asked(tiny):
    photo, models, start = scene()
    model = moving()
    objects = [refiner.prepare_object(m, TINY) for m in models]
    found = refinement.refine(model, photo, CAMERA.K, objects, start, outer=3, inner=1)
    assert [len(r.steps) for r in found.rounds] == [1, 1, 1, 1]
    each = refinement.refine(model, photo.expand(4, -1, -1, -1), CAMERA.K.expand(4, 3, 3), objects, start, outer=3, inner=1)
    torch.testing.assert_close(each.cam_from_obj, found.cam_from_obj, atol=2e-5, rtol=0)
    for before, after in zip(found.rounds, found.rounds[1:], strict=False):
        assert torch.equal(after.start, before.steps[-1].after)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_same_on_cuda(tiny, batch):
    """Whole loop, losses and gradients where the tensors are; poses as on the CPU, since float32 is float32."""
    photo, models, start = scene()
    model = moving()
    objects = [refiner.prepare_object(m, TINY) for m in models]
    expected = refinement.refine(model, photo, CAMERA.K, objects, start)
    model = model.cuda()
    found = refinement.refine(model, photo.cuda(), CAMERA.K.cuda(), objects, start.cuda())
    assert found.cam_from_obj.is_cuda
    torch.testing.assert_close(found.cam_from_obj.cpu(), expected.cam_from_obj, atol=2e-4, rtol=0)
    model, there = network().cuda(), {k: v.cuda() for k, v in batch.items()}
    with torch.autocast("cuda", torch.bfloat16):
        losses = fresh(model, there)
    sum(losses.values()).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


# ----------------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(tmp_path):
    K = torch.tensor([[110.0, 0.0, 63.5], [0.0, 110.0, 47.5], [0.0, 0.0, 1.0]])
    data = bop_folder.write_bop([PLAIN, SYMMETRIC], tmp_path / "data", images=2, camera=Camera(K, (96, 128)), workers=0, seed=1)

    def run(steps, **more):
        few = training.TrainConfig(steps=steps, batch_size=2, workers=0, checkpoint_minutes=1e6)
        return training.train("refiner", data, tmp_path / "run", config=few, method_config=TINY, progress_bar=False, **more)

    file = run(2)
    before = weights.read(file)
    assert before.method == "refiner"
    assert before.labels == (1, 2)
    assert weights.build_config(refiner.Config, before.config) == TINY
    assert before.notes["steps"] == "2"
    assert run(3, split="train") == file
    after = weights.read(file)
    assert after.notes["steps"] == "3"
    assert after.state.keys() == before.state.keys()
    assert not torch.equal(before.state["update.change.weight"], after.state["update.change.weight"])
    kept = torch.load(tmp_path / "run/checkpoints/refiner/last.ckpt", weights_only=True)
    assert {int(m["step"]) for m in kept["optimizer_states"][0]["state"].values()} == {3}  # the optimiser went on as well
    model = refiner.Model(weights.build_config(refiner.Config, after.config))
    model.load_state_dict({k: v.to(model.state_dict()[k].dtype) for k, v in after.state.items()}, strict=True)
