"""The variational generator of views: its loss, its codes, its conventions."""

import math
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from monopose.category import model as category
from monopose.category import view as view_ops
from monopose.category.model import CodePosterior, Model, Picture, Proposal
from monopose.geometry import camera

TINY = replace(
    category.small("mug"), shape_code=4, look_code=3, volume=(8, 6, 4), projection=12, decoder=(8, 6), encoder=(6, 8, 8, 8),
    hidden=8, azimuth_bins=8,
)  # fmt: skip
PUBLISHED = replace(category.published("mug"), volume=(8, 6, 4), projection=12, decoder=(8, 6), encoder=(6, 8, 8, 8), hidden=8)


def pairs(count=2, seed=0, side=64):
    """Two views each of coloured discs, as a sample holds them."""
    g = torch.Generator().manual_seed(seed)
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    disc = ((axis**2 + axis[:, None] ** 2) < 0.4).float()
    image = torch.rand(count, 1, 3, 1, 1, generator=g).expand(-1, 2, -1, side, side).clone()
    angles = torch.rand(count, 2, 3, generator=g)
    placing = torch.tensor([0.0, 0.0, 0.9]).expand(count, 2, 3)
    mask = disc.expand(count, 2, side, side).clone()
    rgba = torch.cat([image * mask[:, :, None], mask[:, :, None]], 2)
    return {"image": image, "visible": mask, "rgba": rgba, "view": torch.cat([angles, placing], -1)}


def made(model, batch):
    return model(batch["image"], batch["visible"], batch["view"])


def build(config=TINY, seed=0):
    torch.manual_seed(seed)
    return Model(config)


def gradients(model, value):
    model.zero_grad()
    value.backward(retain_graph=True)
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}


def test_kl_is_the_divergence_from_the_normal_distribution():
    g = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(3, 5, generator=g), torch.randn(3, 5, generator=g)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    assert torch.allclose(category.kl(CodePosterior(mean, log_variance)), wanted)


@pytest.mark.parametrize("config", [TINY, PUBLISHED], ids=["ours", "published"])
def test_the_weight_of_the_kl_term_changes_what_is_learned(config):
    found = {}
    for weight in (0.0, 0.5, 1.0):
        model, batch = build(replace(config, kl_weight=weight)), pairs()
        torch.manual_seed(1)
        total = sum(category.loss(model, made(model, batch), batch).values())
        name = next(n for n, _ in model.encoder.codes.named_parameters() if "original" in n)
        found[weight] = gradients(model, total)[f"encoder.codes.{name}"]
    assert not torch.allclose(found[0.0], found[1.0])
    assert torch.allclose(found[0.5] - found[0.0], 0.5 * (found[1.0] - found[0.0]), atol=1e-6)


def test_every_loss_reaches_the_parts_it_should():
    config = replace(TINY, perceptual_weight=1.0)
    model, batch = build(config).train(), pairs()
    losses = category.loss(model, made(model, batch), batch)
    assert set(losses) == {"kl", "colour", "alpha", "perceptual", "azimuth", "elevation", "placing"}
    everything = {n for n, _ in model.named_parameters()}
    head = {n for n in everything if n.startswith("encoder.extra")}
    codes = {n for n in everything if n.startswith("encoder.codes")}
    volume = {n for n in everything if n.startswith("generator")}
    trunk = {n for n in everything if n.startswith("encoder.trunk")}
    without_effect = {n for n in everything if n.startswith(("generator.up", "encoder.trunk")) and n.endswith("bias")}
    for name in ("colour", "alpha", "perceptual"):  # a bias before a normalisation has no effect
        reached = set(gradients(model, losses[name]))
        assert reached >= (volume | codes | trunk) - without_effect, name
        assert not reached & head
    assert set(gradients(model, losses["kl"])) & (codes | trunk) >= codes
    assert not set(gradients(model, losses["kl"])) & volume
    for name in ("azimuth", "elevation", "placing"):
        reached = set(gradients(model, losses[name]))
        assert reached >= head
        assert not reached & (volume | codes)


def test_a_view_is_drawn_from_the_code_of_the_other():
    model, batch = build().eval(), pairs()
    before = made(model, batch).picture
    batch["image"][:, 0] = 1 - batch["image"][:, 0]
    after = made(model, batch).picture
    moved = (after.image - before.image).abs().flatten(1).amax(1).unflatten(0, (-1, 2))
    assert (moved[:, 0] == 0).all()
    assert (moved[:, 1] > 1e-6).all()


def test_what_is_outside_the_mask_is_not_looked_at():
    batch = pairs()
    noise = torch.rand_like(batch["image"])
    a = batch["visible"][:, :, None]
    for config in (TINY, PUBLISHED):
        model = build(config).eval()
        clean, _ = model.encode(batch["image"][:, 0], batch["visible"][:, 0])
        other, _ = model.encode((batch["image"] * a + noise * (1 - a))[:, 0], batch["visible"][:, 0])
        assert torch.allclose(clean.mean, other.mean, atol=1e-6)


def test_symmetric_objects_are_seen_from_where_they_were_encoded():
    batch = pairs()
    turned = batch | {"view": batch["view"] + torch.tensor([1.0, 0, 0, 0, 0, 0])}
    for symmetric in (True, False):
        model = build(replace(TINY, symmetric=symmetric)).eval()
        same = torch.allclose(made(model, batch).picture.image, made(model, turned).picture.image, atol=1e-5)
        assert same == symmetric


def test_views_mean_what_the_data_means_by_them():
    """A generator that draws a soft spot off the middle, placed as `category.samples` places it."""
    view = view_ops.View(*torch.tensor([0.3, 0.2, 0.4]), torch.tensor([0.2, -0.1]), torch.tensor(1.1)).stacked()
    model = build(replace(TINY, own_scale=0.8)).eval()
    pixels = camera.pixel_grid((64, 64))
    drawn = (-(pixels - torch.tensor([44.0, 26.0])).square().sum(-1) / 18).exp().clamp(1e-6, 1 - 1e-6)
    model.generator.forward = lambda *_: drawn.logit().expand(1, 4, 64, 64)
    made = model.synthesise(torch.zeros(1, 7), view[None]).alpha
    c, s = 0.8 / 1.1 * math.cos(0.4), 0.8 / 1.1 * math.sin(0.4)
    turn, shift = torch.tensor([[c, s], [-s, c]]), torch.tensor([[0.2], [-0.1]])
    grid = F.affine_grid(torch.cat([turn, -turn @ shift], 1)[None], [1, 1, 64, 64], align_corners=False)
    assert torch.allclose(made, F.grid_sample(drawn[None, None], grid, align_corners=False)[:, 0], atol=1e-5)
    assert float(made.max()) > 0.9


def test_symmetric_objects_have_no_azimuth_loss():
    model, batch = build(replace(TINY, symmetric=True)), pairs()
    assert "azimuth" not in category.loss(model, made(model, batch), batch)


def test_parts_are_hidden_from_the_encoder_in_training_only():
    torch.manual_seed(0)
    masks = category.occluders(400, 32, 0.5, torch.ones(1))
    share = (masks.flatten(1).amin(1) == 0).float().mean()
    assert 0.35 < float(share) < 0.6
    assert (masks[:, 15:17, 15:17] == 1).all()  # something is left
    model, batch = build(replace(TINY, hidden_share=1.0)).eval(), pairs()
    assert torch.equal(made(model, batch).posterior.mean, made(model, batch).posterior.mean)


def test_without_alpha_the_background_is_white_wherever_the_picture_goes():
    model = build(PUBLISHED).eval()
    shown = model.synthesise(torch.zeros(1, 16), torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.45]]))
    assert shown.alpha is None
    assert torch.allclose(shown.image[..., :15, :], torch.ones(1, 3, 15, 64))
    assert not torch.allclose(shown.image[..., 20:44, 20:44], torch.ones(1, 3, 24, 24))


def test_the_proposal_is_best_at_the_truth():
    batch, config = pairs(4), TINY
    n = config.azimuth_bins
    view = batch["view"].flatten(0, 1)
    centres = torch.arange(n) * (2 * math.pi / n)

    def losses(shift):
        bins = (40 * (view[:, :1] + shift - centres).cos()).log_softmax(1)
        placing = view[:, 2:] + shift * torch.tensor([1.0, 0.1, 0.1, 0.1])
        return category._proposal_losses(config, Proposal(bins, view[:, 1] + shift, placing), batch)

    true, wrong = losses(0.0), losses(0.8)
    assert all(float(true[k]) < float(wrong[k]) for k in ("azimuth", "elevation", "placing"))
    assert float(true["elevation"]) == 0
    assert float(true["placing"]) < 1e-5
    around = losses(2 * math.pi)["azimuth"]  # a circle
    assert torch.allclose(around, true["azimuth"], atol=1e-4)


def test_log_variances_stay_in_bounds_and_means_do_not_saturate():
    model = build().eval()
    with torch.no_grad():
        model.encoder.codes[-1].bias.fill_(50.0)
    posterior, _ = model.encode(torch.rand(1, 3, 64, 64), torch.ones(1, 64, 64))
    assert float(posterior.log_variance.max()) <= 6
    assert float(posterior.mean.min()) > 40


def test_pictures_lie_on_a_plain_ground():
    picture = Picture(torch.ones(1, 3, 2, 2), torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]))
    assert torch.allclose(picture.over(0.5)[0, 0], torch.tensor([[1.0, 0.75], [0.5, 0.5]]))
    assert Picture(picture.image, None).over(0.5) is picture.image


@pytest.mark.parametrize("name", ["small", "standard", "large", "published"])
def test_presets_are_networks_that_fit_together(name):
    config = category.PRESETS[name]("bowl")
    assert config.symmetric
    with torch.device("meta"):
        model = Model(config)
    assert model.generator.side == config.input_size
    assert asdict(config)["category"] == "bowl"
    assert (name == "published") == (not config.alpha)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"makes pictures of 64 pixels a side, and input_size is 128"):
        Model(replace(TINY, input_size=128))
    with pytest.raises(ValueError, match="shape_code must be 1"):
        Model(replace(TINY, shape_code=0))
    with pytest.raises(ValueError, match=r"two views each, \(B, 2, 3, 64, 64\)"):
        build()(torch.rand(2, 3, 64, 64), *(torch.rand(2),) * 2)


def test_it_learns_a_batch_by_heart():
    model, batch = build(replace(TINY, kl_weight=0.001, hidden_share=0.0)).train(), pairs(3)
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    seen = []
    for _ in range(25):
        losses = category.loss(model, made(model, batch), batch)
        adam.zero_grad()
        sum(losses.values()).backward()
        adam.step()
        seen.append({k: float(v.detach()) for k, v in losses.items()})
    assert seen[-1]["colour"] < 0.5 * seen[0]["colour"]
    assert seen[-1]["alpha"] < 0.5 * seen[0]["alpha"]
