"""The network on surfaces: graphs, what it may not depend on, and the circle loss against a loop."""

import math

import pytest
import torch

from monopose.objects import refiner_networks as net


def cloud(n=300, seed=0, colors=True):
    g = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=1) * torch.tensor([1.0, 0.7, 0.4])
    normals = torch.nn.functional.normalize(points / torch.tensor([1.0, 0.49, 0.16]), dim=1)
    return points, normals, torch.rand(n, 3, generator=g) if colors else None


def graph(seed=0, counts=(48, 12, 4), colors=True, n=300):
    return net.surface(*cloud(n, seed, colors), counts=counts, k=6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return net.SurfaceNet(descriptor=8, context=5, width=16).eval()


def test_farthest_points_spread_and_do_not_depend_on_the_order():
    points = cloud()[0]
    rows = net.farthest_points(points, 40)
    assert len(rows.unique()) == 40
    gaps = torch.cdist(points[rows], points[rows]).fill_diagonal_(torch.inf)
    covering = torch.cdist(points, points[rows]).amin(1).max()
    assert float(gaps.min()) >= float(covering) - 1e-6  # as far apart as the farthest point is from them
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(points[order][net.farthest_points(points[order], 40)], points[rows])


def test_neighbours_are_the_nearest_ones_on_every_level():
    made = graph()
    assert [len(p) for p in made.points] == [48, 12, 4]
    for points, near in zip(made.points, made.near, strict=True):
        gaps = torch.cdist(points, points)
        k = min(6, len(points))
        torch.testing.assert_close(gaps.gather(1, near)[:, :k], gaps.sort(1).values[:, :k])
        assert torch.equal(near[:, 0], torch.arange(len(points)))
    for level in range(2):
        many, few = made.points[level], made.points[level + 1]
        gaps = torch.cdist(few, many)
        torch.testing.assert_close(gaps.gather(1, made.below[level]), gaps.sort(1).values[:, :6])
        assert torch.equal(torch.cdist(many, few).argmin(1), made.above[level])


def test_neither_the_order_of_points_nor_other_objects_change_a_descriptor(model):
    points, normals, colors = cloud()
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(2))
    mixed = net.surface(points[order], normals[order], colors[order], (48, 12, 4), 6)
    torch.testing.assert_close(mixed.points[0], graph().points[0])  # the chosen points come in the order of choice
    others = [graph(1, (24, 6, 2), colors=False), graph(2, (60, 15, 3))]
    with torch.no_grad():
        alone = model(graph())
        for out, expected in zip(model(mixed), alone, strict=True):
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
        for n, before in ((0, 0), (1, 24), (2, 84)):
            several = [*others[:n], graph(), *others[n:]]
            for out, expected in zip(model(net.joined(several)), alone, strict=True):
                assert len(out) == 132
                torch.testing.assert_close(out[before : before + 48], expected, atol=1e-5, rtol=1e-4)


def test_descriptors_have_unit_length_and_the_shape_around_tells_places_apart(model):
    descriptors, context = model(graph())
    assert descriptors.shape == (48, 8)
    assert context.shape == (48, 5)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(48))
    alike = descriptors @ descriptors.T
    assert float(alike.fill_diagonal_(-1).max().detach()) < 1 - 1e-4  # no two places say the same, even before training


def test_colour_and_its_absence_reach_the_descriptor(model):
    points, normals, colors = cloud()
    with torch.no_grad():
        painted, grey, bare = (
            model(net.surface(points, normals, c, (48, 12, 4), 6))[0] for c in (colors, torch.full_like(colors, 0.5), None)
        )
    assert float((painted - grey).abs().max()) > 1e-3
    assert float((grey - bare).abs().max()) > 1e-3


def test_every_parameter_gets_a_gradient(model):
    descriptors, context = model(net.joined([graph(), graph(1, colors=False)]))
    (descriptors * torch.randn(descriptors.shape) + context.mean()).sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_fewer_points_than_asked(model):
    """A tiny sample repeats its points; a level of one point has one neighbour, many times."""
    made = net.surface(*cloud(5), counts=(8, 4, 1), k=12)
    assert [len(p) for p in made.points] == [8, 4, 1]
    assert len({tuple(p.tolist()) for p in made.points[0]}) == 5
    assert all(n.shape[1] == 12 for n in made.near)
    descriptors, context = model(made)
    assert bool(torch.isfinite(descriptors).all() and torch.isfinite(context).all())
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(8))


def loop_circle(similarity, positive, negative, margin=0.1, optimum=1.4, scale=16.0):
    """The circle loss, row by row and then column by column, in plain numbers."""
    means = []
    for s, p, n in ((similarity, positive, negative), (similarity.T, positive.T, negative.T)):
        rows = []
        for row in range(len(s)):
            pull = push = 0.0  # of the code: a pair that is none counts exp(0)
            for column in range(s.shape[1]):
                d = math.sqrt(max(2 - 2 * float(s[row, column]), 1e-6))
                pull += math.exp(scale * max(d - margin, 0) * (d - margin)) if p[row, column] else 1.0
                push += math.exp(scale * max(optimum - d, 0) * (optimum - d)) if n[row, column] else 1.0
            if p[row].any() and n[row].any():
                rows.append(math.log1p(pull * push) / scale)
        if rows:
            means.append(sum(rows) / len(rows))
    return sum(means) / len(means)


def test_circle_loss_against_a_loop():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(n, 4, generator=g, dtype=torch.float64), dim=1) for n in (7, 9))
    near = torch.rand(7, 9, generator=g)
    for positive, negative in ((near < 0.2, near > 0.5), (near < 0.05, near > 0.9), (near < 0.5, near >= 0.5)):
        expected = loop_circle(a @ b.T, positive, negative)
        assert float(net.circle_loss(a @ b.T, positive, negative)) == pytest.approx(expected, rel=1e-9)


def test_circle_loss_has_no_gradient_when_all_is_separated_and_one_when_not():
    """Positives nearer than the margin, negatives beyond the optimum: nothing is left to do."""
    a = torch.eye(4, dtype=torch.float64).requires_grad_()
    b = torch.eye(4, dtype=torch.float64)
    same = torch.eye(4, dtype=torch.bool)
    net.circle_loss(a @ b.T, same, ~same).backward()  # distances 0 and sqrt 2 > 1.4
    assert torch.equal(a.grad, torch.zeros_like(a))
    a.grad = None
    near = a + torch.tensor([0.0, 0.3, 0.0, 0.0], dtype=torch.float64)
    net.circle_loss(near @ b.T, same, ~same).backward()
    assert bool((a.grad != 0).any())


def test_circle_loss_pulls_positives_and_pushes_negatives():
    similarity = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[True, False, False], [False, True, False]])
    negative = torch.tensor([[False, True, False], [True, False, False]])
    net.circle_loss(similarity, positive, negative).backward()
    assert bool((similarity.grad[positive] < 0).all() and (similarity.grad[negative] > 0).all())
    assert not bool(similarity.grad[:, 2].any())  # neither: does not count


def test_rows_count_where_no_column_has_both():
    similarity = torch.tensor([[0.2, 0.6]], dtype=torch.float64)
    positive, negative = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    assert float(net.circle_loss(similarity, positive, negative)) == pytest.approx(loop_circle(similarity, positive, negative))


def test_circle_loss_without_pairs_is_zero_with_a_finite_gradient():
    similarity = torch.rand(3, 4, requires_grad=True)
    no = torch.zeros(3, 4, dtype=torch.bool)
    for positive, negative in ((no, ~no), (~no, no), (no, no)):
        loss = net.circle_loss(similarity, positive, negative)
        assert float(loss.detach()) == 0
        (grad,) = torch.autograd.grad(loss, similarity)
        assert torch.equal(grad, torch.zeros_like(grad))
    exact = torch.eye(3, requires_grad=True)  # a distance of zero has no infinite slope
    same = torch.eye(3, dtype=torch.bool)
    net.circle_loss(exact, same, ~same).backward()
    assert bool(torch.isfinite(exact.grad).all())
