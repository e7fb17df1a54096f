import math

import pytest
import torch

from monopose import weights
from monopose.geometry import se3, viewpoints
from monopose.viewpoint import normals, samples
from shapes import box

SMALL = normals.Config(pretrained=False, widths=(16, 16, 16, 16), zoom=2)
K = torch.tensor([[150.0, 0.0, 31.5], [0.0, 150.0, 31.5], [0.0, 0.0, 1.0]])


def sphere(side=64, f=150.0, distance=5.0):
    """Depth, normals and mask of a unit sphere on the optical axis, in closed form."""
    v, u = torch.meshgrid(torch.arange(side) - (side - 1) / 2, torch.arange(side) - (side - 1) / 2, indexing="ij")
    ray = torch.stack([u / f, v / f, torch.ones_like(u)]).double()
    a, b, c = ray.square().sum(0), distance * ray[2], distance**2 - 1.0
    inside = b * b - a * c
    mask = inside > 0
    depth = torch.where(mask, (b - inside.clamp_min(0).sqrt()) / a, 0.0)
    n = ray * depth - torch.tensor([0.0, 0.0, distance], dtype=torch.float64)[:, None, None]
    return depth[None].float(), torch.where(mask, n, 0.0)[None].float(), mask[None]


def crops_of(*maps):
    """Crops with given normals (B, 3, S, S) and masks, in random colours."""
    n, mask = maps
    image = torch.rand(len(n), 8, *n.shape[-2:], generator=torch.Generator().manual_seed(0))
    image[:, 3] = mask.float()
    image[:, 5:8] = (n + 1) / 2
    return image


def rendered(count=4, side=64):
    """Crops of a coloured box from several sides, with true normals."""
    model = box((0.6, 0.4, 0.8))
    images = []
    for i in range(count):
        angles = torch.tensor([0.4 + 1.3 * i, 0.2 + 0.1 * i, 0.0])
        pose = se3.from_rt(viewpoints.rotation_of(angles), torch.tensor([0.0, 0.0, 3.0]))
        n = samples.render_normals(model, pose, K, (side, side))
        mask = n.norm(dim=0) > 0.5
        color = torch.where(mask, (n * torch.tensor([0.2, 0.5, 0.8])[:, None, None]).sum(0).abs(), 0.1)
        image = torch.cat([color.expand(3, side, side), mask[None].float(), torch.zeros(1, side, side), (n + 1) / 2])
        images.append(image)
    return torch.stack(images)


# ------------------------------------------------------------------------------------------------------------ boundaries


def test_a_sphere_has_an_outline_and_no_folds():
    depth, n, mask = sphere()
    for d in (None, depth):
        found = normals.boundaries(n, mask, d, fold_deg=50, jump=0.03)
        radius = 150 / math.sqrt(5.0**2 - 1)  # of the silhouette, pixels
        v, u = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
        away = radius - (u * u + v * v).sqrt()
        assert not found[0][away > 2].any()
        assert found[0][(away > 0.05) & (away < 0.95)].float().mean() > 0.7  # outermost pixels, by rows or columns
        assert not (found & ~mask).any()


def test_true_normals_of_a_sphere_come_back_from_the_crop():
    _, n, mask = sphere()
    found, _, inside = normals.truth(SMALL, {"image": crops_of(n, mask)})
    assert torch.equal(inside, mask)
    assert torch.allclose(found, n, atol=1e-5)
    assert normals.errors_deg(found, n).max() < 0.01


def test_a_fold_is_a_boundary_and_a_plane_is_none():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 4:28, 4:28] = True
    n = torch.zeros(1, 3, 32, 32)
    n[:, 2] = -1
    plane = normals.boundaries(n, mask)
    ring = mask.clone()
    ring[:, 5:27, 5:27] = False
    assert torch.equal(plane, ring)
    s = math.sin(math.radians(40))
    n[:, 0, :, 16:], n[:, 2, :, 16:] = s, -math.sqrt(1 - s * s)
    ring[:, 4:28, 15:17] = True
    assert torch.equal(normals.boundaries(n, mask, fold_deg=35), ring)
    assert torch.equal(normals.boundaries(n, mask, fold_deg=45), plane)


def test_a_step_between_parallel_planes_needs_the_depth():
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    n = torch.zeros(1, 3, 16, 16)
    n[:, 2] = -1
    near = torch.full((1, 16, 16), 2.0)
    near[:, :, 8:] = 2.2
    assert not normals.boundaries(n, mask, None).any()
    found = normals.boundaries(n, mask, near, jump=0.05)
    assert found[0, :, 7:9].all()
    assert not found[0, :, :6].any()
    tilted = 1 / (0.5 + 0.02 * torch.arange(16.0)).expand(1, 16, 16)  # a plane: inverse depth linear in the picture
    assert not normals.boundaries(n, mask, tilted, jump=1e-4).any()


def test_boundaries_of_a_rendered_box_are_its_edges():
    image = rendered(4)[3:]
    n, edges, mask = normals.truth(SMALL, {"image": image})
    assert 0.03 < edges[mask].float().mean() < 0.5
    flat = mask & ~edges
    facing = {tuple(v) for v in n.movedim(1, -1)[flat].mul(20).round().int().tolist()}
    assert len(facing) == 3  # what is left are three sides, each of one direction


# --------------------------------------------------------------------------------------------------------------- learning


def test_loss_has_its_closed_forms():
    _, n, mask = sphere(32, 75.0)
    batch = {"image": crops_of(n, mask)}
    model = normals.Model(SMALL)
    _, edges, inside = normals.truth(SMALL, batch)

    def of(said, edge_logits, mask_logits):
        return {k: float(v) for k, v in normals.loss(model, normals.Output(said, edge_logits, mask_logits), batch).items()}

    sure = 30.0 * (2 * edges.float() - 1), 30.0 * (2 * inside.float() - 1)
    right = of(n, *sure)
    assert max(abs(v) for v in right.values()) < 1e-5
    assert of(-n, *sure)["normals"] == pytest.approx(2.0, abs=1e-5)
    blank = of(n, torch.zeros(1, 32, 32), torch.zeros(1, 32, 32))
    assert blank["boundaries"] == pytest.approx(0.5 * math.log(2), rel=1e-5)
    everywhere = of(n, torch.full((1, 32, 32), 5.0), sure[1])  # few boundary pixels weigh as much as the many others
    assert everywhere["boundaries"] == pytest.approx(0.5 * (math.log1p(math.exp(-5)) + math.log1p(math.exp(5))) / 2, rel=1e-5)


def test_crops_without_an_object_have_a_loss():
    model = normals.Model(SMALL)
    nothing = torch.rand(2, 8, 64, 64)
    nothing[:, 3], nothing[:, 5:] = 0, 0.5
    losses = normals.loss(model, model(nothing), {"image": nothing})
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert float(losses["normals"].detach()) == 0
    assert bool(torch.isfinite(total))
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    model = normals.Model(SMALL)
    image = rendered(2)
    torch.stack(list(normals.loss(model, model(image), {"image": image}).values())).sum().backward()
    still = [k for k, p in model.named_parameters() if p.requires_grad and (p.grad is None or not bool(p.grad.abs().sum() > 0))]
    assert not still


@pytest.mark.slow
def test_overfits_four_crops():
    torch.manual_seed(0)
    image = rendered(4)
    model = normals.Model(normals.Config(pretrained=False, widths=(32, 32, 32, 32), zoom=1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    n, edges, mask = normals.truth(model.config, {"image": image})
    for _ in range(40):
        losses = normals.loss(model, model(image), {"image": image})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    found = normals.predict(model.train(), image)  # batch statistics: the running ones lag behind so short a training
    assert normals.errors_deg(found.normals, n).median() < 8
    assert ((found.mask > 0.5) == mask).float().mean() > 0.97
    assert ((found.boundaries > 0.5) == edges)[mask].float().mean() > 0.8


# -------------------------------------------------------------------------------------------------------------------- use


@pytest.mark.parametrize("zoom", [1, 2])
def test_predictions_fit_their_crops(zoom):
    torch.manual_seed(0)
    model = normals.Model(normals.Config(pretrained=False, widths=(16, 16, 16, 16), zoom=zoom)).eval()
    torch.nn.init.normal_(model.net.head.bias)  # an untrained network may say 0, which has no direction
    image = torch.rand(3, 8, 96, 96)
    mask = torch.zeros(3, 96, 96, dtype=torch.bool)
    mask[:, 20:70, 30:60] = True
    found = normals.predict(model, image, mask, chunk=2)
    assert found.normals.shape == (3, 3, 96, 96)
    assert found.boundaries.shape == found.mask.shape == (3, 96, 96)
    length = found.normals.norm(dim=1)
    assert torch.allclose(length[mask], torch.ones(()), atol=1e-5)
    assert not length[~mask].any()
    assert not found.boundaries[~mask].any()
    again = normals.predict(model, image[:, :3], mask)  # in one go
    assert torch.allclose(found.normals, again.normals, atol=1e-3)


def test_only_colours_are_seen():
    torch.manual_seed(0)
    model = normals.Model(SMALL).eval()
    image = rendered(2)
    other = image.clone()
    other[:, 3:] = torch.rand(2, 5, 64, 64)
    for a, b in zip(model(image), model(other), strict=True):
        assert torch.equal(a, b)


def test_predictor_gives_what_record_crops_ask_for():
    model = normals.Model(SMALL)
    n, edges = normals.predictor(model)(torch.rand(1, 3, 96, 96))
    assert n.shape == (1, 3, 96, 96)
    assert edges.shape == (1, 96, 96)
    assert not model.training
    assert bool(((n.norm(dim=1) - 1).abs() < 1e-5)[n.norm(dim=1) > 0].all())
    assert float(edges.min()) >= 0
    assert float(edges.max()) <= 1


def test_weights_file_brings_it_back(tmp_path):
    model = normals.Model(SMALL).eval()
    path = weights.save(tmp_path / "normals.safetensors", model.state_dict(), method="normals", config=SMALL)
    checkpoint = weights.read(path)
    config = weights.build_config(normals.Config, checkpoint.config)
    assert config == SMALL
    again = normals.Model(config).eval()
    weights.load_into(again, checkpoint)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(image).normals, again(image).normals)


def test_errors_say_what_is_wrong():
    model = normals.Model(SMALL)
    with pytest.raises(ValueError, match="RGB first"):
        model(torch.rand(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"expected crops \(B, 8"):
        normals.truth(SMALL, {"image": torch.rand(1, 4, 64, 64)})
    with pytest.raises(ValueError, match="zoom"):
        normals.Model(normals.Config(zoom=0))
    assert normals.errors_deg(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)).tolist() == pytest.approx([90.0] * 4)
