"""pnp.sample_posterior: evidence, moments, modes and coverage against closed forms, brute force and synthetic truth."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monopose import pnp
from monopose.commands import fit_identity
from monopose.geometry import camera, rotation, se3
from monopose.pnp import amis, kernels, residuals
from monopose.pnp.prepare import prepare

F64 = torch.float64
K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]], dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problems(batch, n, noise, dof=6, size=0.2, distance=(0.7, 1.3), seed=0, stretch=(1.0, 1.0, 1.0)):
    """Points in a box, pixels with Gaussian noise, weights of one over its standard deviation, true poses."""
    g = generator(seed)
    X = (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5) * size * torch.tensor(stretch, dtype=F64)
    z = distance[0] + (distance[1] - distance[0]) * torch.rand(batch, 1, generator=g, dtype=F64)
    t = torch.cat([(torch.rand(batch, 2, generator=g, dtype=F64) - 0.5) * 0.4 * z, z], -1)
    R = rotation.random_rotations(batch, g, F64)
    if dof == 4:
        yaw = 2 * math.pi * torch.rand(batch, 1, generator=g, dtype=F64)
        R = rotation.so3_exp(torch.nn.functional.pad(yaw, (1, 1)))
    T = se3.from_rt(R, t)
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(batch, n, 2, generator=g, dtype=F64)
    return X, x, torch.full_like(x, 1 / noise), T


def from_afar(tilt_deg=30.0):
    """A 10 cm board with 16 points, 2 m away, pixels good to 1: tilted to either side it looks nearly the same."""
    side = torch.linspace(-0.05, 0.05, 4, dtype=F64)
    X = torch.stack([*torch.meshgrid(side, side, indexing="ij"), torch.zeros(4, 4, dtype=F64)], -1).reshape(1, 16, 3)
    T = torch.eye(4, dtype=F64)[None].clone()
    T[0, :3, :3] = rotation.so3_exp(torch.tensor([math.radians(tilt_deg), 0.0, 0.0], dtype=F64))
    T[0, 2, 3] = 2.0
    x = camera.project(se3.transform(T, X), K) + 0.3 * torch.randn(1, 16, 2, generator=generator(2), dtype=F64)
    return X, x, torch.ones_like(x), T


def laplace(X, x, w, dof):
    s = pnp.solve(X, x, K, w, dof=dof)
    free = [0, 1, 2, 3, 4, 5] if dof == 6 else [0, 1, 2, 4]
    covariance = s.covariance[:, free][:, :, free]
    return -s.cost + 0.5 * len(free) * math.log(2 * math.pi) + 0.5 * torch.logdet(covariance)


def brute_force(X, x, w, dof, count=20000):
    """Evidence by plain importance sampling from one wide Student-t of the tangent at the optimum, written anew."""
    s = pnp.solve(X, x, K, w, dof=dof)
    free = [0, 1, 2, 3, 4, 5] if dof == 6 else [0, 1, 2, 4]
    out = []
    for i in range(len(X)):
        scale = 1.5 * s.covariance[i][free][:, free].numpy()
        proposal = scipy.stats.multivariate_t(shape=scale, df=4, seed=1)
        drawn = proposal.rvs(count)
        tangent = torch.zeros(count, 6, dtype=F64)
        tangent[:, free] = torch.from_numpy(drawn)
        angle = tangent[:, 3:].norm(dim=-1)
        haar = 2 * torch.log(torch.sinc(angle / (2 * math.pi))) if dof == 6 else 0 * angle
        haar = torch.where(angle < math.pi, haar, -math.inf)
        flat = prepare(X[i : i + 1], x[i : i + 1], K, w[i : i + 1]).problems
        cost = residuals.pose_costs(flat, se3.retract(s.cam_from_obj[i], tangent)[None])[0]
        out.append((-cost + haar - torch.from_numpy(proposal.logpdf(drawn))).logsumexp(0) - math.log(count))
    return torch.stack(out)


@pytest.mark.parametrize("dof", [6, 4])
def test_evidence_of_a_sharp_posterior_is_that_of_the_gaussian(dof):
    X, x, w, _ = problems(24, 30, 0.2, dof)
    p = pnp.sample_posterior(X, x, K, w, dof=dof, samples=2048, generator=generator())
    assert p.converged.all()
    error = p.log_evidence - laplace(X, x, w, dof)
    assert error.abs().max() < 0.1
    assert error.mean().abs() < 0.02


@pytest.mark.parametrize("dof", [6, 4])
def test_evidence_of_a_broad_posterior_is_that_of_brute_force(dof):
    X, x, w, _ = problems(4, 10, 4.0, dof)
    p = pnp.sample_posterior(X, x, K, w, dof=dof, samples=4096, generator=generator())
    torch.testing.assert_close(p.log_evidence, brute_force(X, x, w, dof), atol=0.1, rtol=0)


def test_adapting_to_its_own_samples_does_not_bias_the_evidence():
    X, x, w, _ = problems(100, 12, 1.0)
    once = pnp.sample_posterior(X, x, K, w, samples=8192, iterations=1, generator=generator())
    often = pnp.sample_posterior(X, x, K, w, samples=256, iterations=8, generator=generator())
    assert (often.log_evidence - once.log_evidence).mean().abs() < 0.03  # -0.35 if each half were fitted to itself


@pytest.mark.parametrize("dof", [6, 4])
def test_mean_and_covariance_of_a_sharp_posterior_are_those_of_solve(dof):
    X, x, w, _ = problems(6, 30, 0.2, dof)
    s = pnp.solve(X, x, K, w, dof=dof)
    p = pnp.sample_posterior(X, x, K, w, dof=dof, samples=16384, generator=generator())
    sigma = s.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    off = se3.log(p.mean() @ se3.inverse(s.cam_from_obj))[:, 3:] / sigma[:, 3:].clamp_min(1e-12)
    shift = (p.mean() - s.cam_from_obj)[:, :3, 3] / sigma[:, :3]
    assert shift.abs().max() < 0.1
    assert off[:, [0, 1, 2] if dof == 6 else [1]].abs().max() < 0.1
    scale = sigma[:, :, None] * sigma[:, None, :] + 1e-12  # with dof=4 some are zero
    assert ((p.covariance() - s.covariance) / scale).abs().max() < 0.1
    torch.testing.assert_close(p.mode, s.cam_from_obj, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["long", "uneven weights", "near"])
def test_samples_are_effective_whatever_the_object(kind):
    X, x, w, _ = problems(
        40, 32, 2.0, stretch=(3.0, 0.4, 0.4) if kind == "long" else (1.0, 1.0, 1.0),
        distance=(0.3, 0.4) if kind == "near" else (0.7, 1.3),
    )  # fmt: skip
    if kind == "uneven weights":
        w = w * torch.randn(w.shape, generator=generator(3), dtype=F64).exp()
    p = pnp.sample_posterior(X, x, K, w, generator=generator())
    assert p.effective_sample_size.median() > 170
    assert p.effective_sample_size.quantile(0.05) > 100


def test_both_poses_of_a_board_get_their_share():
    X, x, w, T = from_afar()
    p = pnp.sample_posterior(X, x, K, w, samples=1024, generator=generator())
    assert torch.isfinite(p.mode_costs[0]).sum() == 2
    two = p.modes[0, :2, :3, :3]
    apart = rotation.angle_between(two[0], two[1])
    assert apart > math.radians(40)
    nearest = rotation.angle_between(p.samples[0, :, None, :3, :3], two).argmin(-1)
    mass = torch.bincount(nearest, p.probabilities()[0], minlength=2)
    assert (mass > 0.2).all()
    # the truth is one of them
    assert rotation.angle_between(two, T[0, :3, :3]).min() < math.radians(12)
    # each mode alone is nearly Gaussian: shares and evidence are those of the two Gaussians
    each = []
    for m in range(2):
        s = pnp.solve(X, x, K, w, init=p.modes[:, m])
        each.append(-s.cost + 3 * math.log(2 * math.pi) + 0.5 * torch.logdet(s.covariance))
    each = torch.stack(each)[:, 0]
    torch.testing.assert_close(mass, each.softmax(0), atol=0.1, rtol=0)
    torch.testing.assert_close(p.log_evidence[0], each.logsumexp(0), atol=0.25, rtol=0)


def test_a_missed_mode_is_found_through_init():
    X, x, w, _ = from_afar()
    both = pnp.sample_posterior(X, x, K, w, samples=4096, generator=generator())
    for m in range(2):
        p = pnp.sample_posterior(X, x, K, w, init=both.modes[:, m], modes=5, samples=4096, generator=generator(1))
        assert rotation.angle_between(p.modes[0, :, :3, :3], both.modes[0, m, :3, :3]).min() < 1e-3
        torch.testing.assert_close(p.log_evidence, both.log_evidence, atol=0.15, rtol=0)


def mass_above_truth(p, given, T):
    """The posterior mass of poses more likely than the true one: below 0.9 where the 90 % region contains the truth."""
    truth = residuals.pose_costs(given, T[:, None])
    return (p.probabilities() * (residuals.pose_costs(given, p.samples) < truth)).sum(1)


def mahalanobis(s, T):
    v = T[:, :3, 3] - s.cam_from_obj[:, :3, 3]
    omega = rotation.so3_log(T[:, :3, :3] @ s.cam_from_obj[:, :3, :3].mT)
    tangent = torch.cat([v, omega], -1)
    return (tangent * torch.linalg.solve(s.covariance, tangent)).sum(-1)


def assert_covered(inside, level):
    """Four standard deviations of a binomial."""
    n = len(inside)
    assert abs(inside.double().mean() - level) < 4 * math.sqrt(level * (1 - level) / n)


def test_regions_contain_the_truth_as_often_as_they_say():
    X, x, w, T = problems(500, 16, 1.0)
    p = pnp.sample_posterior(X, x, K, w, samples=256, generator=generator())
    mass = mass_above_truth(p, p.prepared.problems, T)
    square = mahalanobis(pnp.solve(X, x, K, w), T)
    for level in (0.5, 0.9, 0.95):
        assert_covered(mass < level, level)
        assert_covered(square < scipy.stats.chi2(6).ppf(level), level)


def test_where_no_gaussian_fits_the_posterior_still_knows_what_it_does_not_know():
    """Six noisy points on a board: the covariance of one of two tilts misses the truth far too often."""
    X, x, w, T = problems(400, 6, 3.0, stretch=(1.0, 1.0, 0.0), distance=(1.5, 1.7))
    p = pnp.sample_posterior(X, x, K, w, samples=512, generator=generator())
    inside = mass_above_truth(p, p.prepared.problems, T) < 0.9
    assert_covered(inside, 0.9)
    s = pnp.solve(X, x, K, w)
    assert (mahalanobis(s, T) < scipy.stats.chi2(6).ppf(0.9)).double().mean() < 0.75


@pytest.mark.parametrize("dof", [6, 4])
@pytest.mark.parametrize("noise", [1.0, 15.0])
def test_the_fused_rounds_are_those_of_the_reference(dof, noise):
    if kernels.backend(torch.device("cpu")) is None:
        pytest.skip("needs numba")
    from monopose.pnp.kernels import amis_cpu

    X, x, w, T = problems(4, 8, noise, dof)
    X[0, :, 2] = 0
    given = prepare(X, x, K, w).problems
    modes = torch.stack([T, se3.retract(T, torch.tensor([0.01, 0.0, 0.02, 0.0, 0.5, 0.0], dtype=F64))], 1)
    costs = residuals.pose_costs(given, modes)
    costs[1, 1] = math.inf
    around, place = amis.frame(given, modes, costs, dof)
    start = amis.laplace(given, modes, costs, place, around)
    rest = start, around, torch.isfinite(costs), [17, 16, 17], 2
    expected = amis.sample_reference(given, *rest, generator())
    found = amis_cpu.sample(given, *rest, generator())
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dof", [6, 4])
def test_single_precision_agrees(dof):
    X, x, w, _ = problems(12, 20, 1.0, dof)
    double = pnp.sample_posterior(X, x, K, w, dof=dof, samples=2048, generator=generator())
    single = pnp.sample_posterior(X.float(), x.float(), K, w.float(), dof=dof, samples=2048, generator=generator())
    assert single.samples.dtype == single.log_weights.dtype == torch.float32
    torch.testing.assert_close(single.log_evidence.double(), double.log_evidence, atol=0.1, rtol=0)


def test_yaw_posteriors_turn_about_the_vertical_only_and_keep_the_roll_of_init():
    X, x, w, T = problems(5, 12, 2.0, dof=4)
    tilt = rotation.so3_exp(torch.tensor([0.3, 0.0, -0.2], dtype=F64))
    X = X @ tilt  # seen with roll and pitch
    T = se3.from_rt(T[:, :3, :3] @ tilt, T[:, :3, 3])
    p = pnp.sample_posterior(X, x, K, w, init=se3.from_rt(tilt, torch.ones(3, dtype=F64)), dof=4, generator=generator())
    assert p.converged.all()
    relative = p.samples[..., :3, :3] @ tilt.mT
    torch.testing.assert_close(relative[..., 1, :], torch.tensor([0.0, 1.0, 0.0], dtype=F64).expand(5, 512, 3))
    torch.testing.assert_close(residuals.pose_costs(p.prepared.problems, p.mode[:, None])[:, 0], p.mode_costs[:, 0])
    assert (p.covariance()[:, [3, 5]].abs() < 1e-9).all()
    assert (rotation.angle_between(p.mode[:, :3, :3], T[:, :3, :3]) < 0.2).all()


def test_the_same_seed_gives_the_same_samples():
    X, x, w, _ = problems(3, 10, 1.0)
    a, b, c = (pnp.sample_posterior(X, x, K, w, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(a.samples, b.samples)
    assert torch.equal(a.log_weights, b.log_weights)
    assert not torch.equal(a.samples, c.samples)
    torch.manual_seed(3)
    a = pnp.sample_posterior(X, x, K, w)
    torch.manual_seed(3)
    assert torch.equal(a.samples, pnp.sample_posterior(X, x, K, w).samples)


def ruin(X, x, w, i, how):
    X, x, w = X.clone(), x.clone(), w.clone()
    if how == "nan point":
        X[i, 2, 1] = math.nan
    elif how == "inf pixel":
        x[i, 0] = math.inf
    elif how == "no weight":
        w[i] = 0
    elif how == "two points":
        w[i, 2:] = 0
    elif how == "one place":
        X[i] = X[i, :1]
    elif how == "a line":
        X[i, :, 1:] = 0
    elif how == "huge":
        X[i] *= 1e30
    elif how == "huge weights":
        w[i] *= 1e200
    return X, x, w


BAD = ["nan point", "inf pixel", "no weight", "two points", "one place", "a line", "huge", "huge weights"]


@pytest.mark.parametrize("dof", [6, 4])
@pytest.mark.parametrize("how", BAD)
def test_one_bad_problem_leaves_the_others_untouched(how, dof):
    X, x, w, T = problems(4, 8, 1.0, dof)
    T[2, 0, 3] = math.nan if how == "nan point" else T[2, 0, 3]
    good = pnp.sample_posterior(X, x, K, w, T, dof=dof, generator=generator())
    X, x, w = (v.requires_grad_() for v in ruin(X, x, w, 2, how))
    p = pnp.sample_posterior(X, x, K, w, T, dof=dof, generator=generator())
    keep = [0, 1, 3]
    for name in ("mode", "samples", "log_weights", "log_evidence"):
        torch.testing.assert_close(getattr(p, name)[keep], getattr(good, name)[keep], rtol=1e-9, atol=1e-6)
        assert torch.isfinite(getattr(p, name)).all()
    assert p.converged[keep].all()
    for value in (p.mean(), p.covariance(), p.resample(5), p.orientation_density(T[:1, :3, :3]), p.effective_sample_size):
        assert torch.isfinite(value).all()
    p.log_evidence.sum().backward()
    for v in (X, x, w):
        assert torch.isfinite(v.grad).all()
        assert v.grad[keep].abs().sum() > 0
    if how in ("nan point", "inf pixel", "no weight") or (how == "two points" and dof == 6):
        assert not p.converged[2]
    if not p.converged[2]:
        assert (p.log_weights[2] == 0).all()
        assert all((v.grad[2] == 0).all() for v in (X, x, w))


def test_batches_of_any_shape():
    X, x, w, T = problems(6, 8, 1.0)
    p = pnp.sample_posterior(X.reshape(2, 3, 8, 3), x.reshape(2, 3, 8, 2), K, w.reshape(2, 3, 8, 2), samples=64)
    assert p.samples.shape == (2, 3, 64, 4, 4)
    assert p.covariance().shape == (2, 3, 6, 6)
    assert p.resample(7).shape == (2, 3, 7, 4, 4)
    assert p.orientation_density(T[:5, :3, :3]).shape == (2, 3, 5)
    one = pnp.sample_posterior(X[0], x[0], K, w[0], samples=64)
    assert one.samples.shape == (64, 4, 4)
    assert one.mean().shape == (4, 4)
    assert one.resample(7).shape == (7, 4, 4)
    none = pnp.sample_posterior(X[:0], x[:0], K, w[:0], samples=64)
    assert none.samples.shape == (0, 64, 4, 4)
    assert none.resample(7).shape == (0, 7, 4, 4)
    assert none.covariance().shape == (0, 6, 6)
    few = pnp.sample_posterior(X[:, :0], x[:, :0], K, w[:, :0], samples=64)
    assert not few.converged.any()
    assert torch.isfinite(few.samples).all()


@pytest.mark.parametrize(("dof", "distinct"), [(6, 1), (6, 2), (4, 1)])
def test_points_that_are_repeated_fix_no_more(dof, distinct):
    X, x, w, _ = problems(4, 8, 1.0, dof)
    X[1], x[1] = (v[1, :distinct].repeat(8 // distinct, 1) for v in (X, x))
    p = pnp.sample_posterior(X, x, K, w, dof=dof, samples=64, generator=generator())
    assert p.converged.tolist() == [True, False, True, True]
    assert (p.log_evidence[1] == 0) or torch.isfinite(p.log_evidence[1])
    assert not p.reliable[1]


def test_wrong_arguments_are_told():
    X, x, w, _ = problems(1, 8, 1.0)
    for wrong in (
        {"dof": 5},
        {"samples": 511},
        {"samples": 4},
        {"iterations": 0},
        {"modes": 0},
        {"far": 1.0},
        {"far": math.nan},
    ):
        with pytest.raises(ValueError, match="must be"):
            pnp.sample_posterior(X, x, K, w, **wrong)
    ten = [pnp.sample_posterior(X, x, K, w, far=far, generator=generator()).log_evidence for far in (10, np.float32(10))]
    assert torch.equal(*ten)


@pytest.mark.parametrize("dof", [6, 4])
def test_orientation_density_integrates_to_one_and_peaks_at_the_mode(dof):
    X, x, w, _ = problems(1, 8, 8.0, dof)
    p = pnp.sample_posterior(X, x, K, w, dof=dof, samples=128, generator=generator())
    if dof == 6:
        side = torch.linspace(-1.2, 1.2, 33, dtype=F64)
        omega = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1).flatten(0, 2)
        volume = torch.sinc(omega.norm(dim=-1) / (2 * math.pi)).square() * (side[1] - side[0]) ** 3
    else:
        omega = torch.nn.functional.pad(torch.arange(-500, 500, dtype=F64)[:, None] * (math.pi / 500), (1, 1))
        volume = torch.full((1000,), math.pi / 500, dtype=F64)
    grid = rotation.so3_exp(omega) @ p.mode[0, :3, :3]
    density = p.orientation_density(grid)
    assert abs((density * volume).sum() - 1) < 0.02
    best = grid[density.argmax(-1)]
    assert (rotation.angle_between(best, p.mode[:, :3, :3]) < 0.35).all()


def test_resampling_keeps_the_distribution():
    X, x, w, _ = problems(2, 10, 3.0)
    p = pnp.sample_posterior(X, x, K, w, generator=generator())
    drawn = p.resample(20000, generator())
    sigma = p.covariance().diagonal(dim1=-2, dim2=-1).sqrt()[:, :3]
    assert ((drawn[..., :3, 3].mean(1) - p.mean()[:, :3, 3]) / sigma).abs().max() < 0.05
    torch.testing.assert_close(drawn[..., :3, 3].std(1), sigma, rtol=0.05, atol=0)
    assert torch.equal(p.resample(5, generator(1)), p.resample(5, generator(1)))


def reach_of(p, X):
    """Distances of the samples' centres, (B, S), and the furthest of a minimum's, (B, 1)."""
    centre = se3.transform(p.samples, X.mean(1)[:, None, None]).norm(dim=-1)[..., 0]
    return centre, se3.transform(p.modes, X.mean(1)[:, None, None]).norm(dim=-1)[..., 0].amax(1, keepdim=True)


@pytest.mark.parametrize("far", [3.0, 10.0])
def test_poses_at_infinity_are_ruled_out(far):
    """With weights this small every pose far away explains the pixels about as well: without a limit there is no posterior."""
    X, x, w, _ = problems(4, 6, 40.0)
    p, unlimited = (
        pnp.sample_posterior(X, x, K, w, samples=2048, generator=generator(), far=limit) for limit in (far, math.inf)
    )
    centre, mode = reach_of(p, X)
    assert ((p.probabilities() > 0) * centre <= far * mode * (1 + 1e-9)).all()
    centre, mode = reach_of(unlimited, X)
    assert ((unlimited.probabilities() > 0) * centre > far * mode).any(1).all()


@pytest.mark.parametrize("dof", [6, 4])
def test_a_posterior_that_knows_nothing_measures_the_region_in_front_of_the_camera(dof):
    X, x, w, _ = problems(4, 6, 40.0, dof)
    for far, rounds in ((3.0, 4), (10.0, 8), (fit_identity.FAR, 8)):
        p = pnp.sample_posterior(X, x, K, 1e-4 * w, dof=dof, samples=4096, iterations=rounds, far=far, generator=generator())
        half_ball = 2 * math.pi / 3 * (far * reach_of(p, X)[1][:, 0]) ** 3
        region = half_ball * (8 * math.pi**2 if dof == 6 else 2 * math.pi)
        torch.testing.assert_close(p.log_evidence, region.log(), rtol=0, atol=0.15)


# ------------------------------------------------------------------------------------- flat likelihoods, frames, reliability


@given(
    seed=st.integers(0, 100), weight=st.sampled_from([0.003, 0.01, 0.02, 0.03, 0.1]), dof=st.sampled_from([6, 4]),
    dtype=st.sampled_from([torch.float32, F64]),
)  # fmt: skip
@settings(max_examples=12)
def test_flat_likelihoods_are_measured(seed, weight, dof, dtype):
    """A network that knows nothing: most of the mass is far away. 512 samples measure it as well as many more do."""
    X, x, _, _ = (v.to(dtype) for v in problems(1, 10, 0.5, dof, distance=(0.5, 2.0), seed=seed))
    w = torch.full_like(x, weight)
    many = pnp.sample_posterior(X, x, K, w, dof=dof, samples=8192, iterations=8, generator=generator())
    p = pnp.sample_posterior(X.expand(10, 10, 3), x.expand(10, 10, 2), K, w, dof=dof, generator=generator(1))
    assert p.reliable.all()
    assert (p.effective_sample_size > 51).all()
    assert (p.log_evidence.mean() - many.log_evidence).abs() < 0.15
    assert p.log_evidence.std() < 0.3


@given(
    seed=st.integers(0, 100), shift=st.sampled_from([0.0, 10.0, 5e5]), unit=st.sampled_from([1e-3, 1.0, 1e3]),
    scaled=st.sampled_from([1.0, 2.0]), dof=st.sampled_from([6, 4]), noise=st.sampled_from([0.5, 3.0]),
)  # fmt: skip
@settings(max_examples=15)
def test_neither_origin_nor_unit_changes_the_posterior(seed, shift, unit, scaled, dof, noise):
    X, x, w, _ = problems(2, 12, noise, dof, seed=seed)
    origin = shift * torch.tensor([1.0, -0.5, 0.25], dtype=F64)
    p = pnp.sample_posterior(X, x, K, w, dof=dof, generator=generator())
    q = pnp.sample_posterior(unit * X + origin, x, scaled * K, w, dof=dof, generator=generator())
    torch.testing.assert_close(q.log_evidence, p.log_evidence + 3 * math.log(unit), rtol=0, atol=0.15)
    back = se3.transform(q.mode, origin[None, None]).squeeze(-2) / unit
    torch.testing.assert_close(back, p.mode[:, :3, 3], rtol=0, atol=1e-3 if shift > 1e3 else 1e-5)
    assert torch.equal(p.reliable, q.reliable)


def test_reliable_says_when_samples_are_too_few_and_when_there_is_no_pose():
    X, x, w, _ = problems(4, 8, 1.0)
    X[3] = math.nan
    few = pnp.sample_posterior(X, x, K, w, samples=2, iterations=1, generator=generator())
    assert torch.equal(few.reliable, few.converged & (few.effective_sample_size >= 0.2))
    p = pnp.sample_posterior(X, x, K, w, generator=generator())
    assert p.reliable.tolist() == [True, True, True, False]
    assert torch.equal(p.reliable, p.converged & (p.effective_sample_size >= 51.2))


def test_what_is_sampled_badly_is_sampled_anew():
    """A robust cost of few points has many minima, of which the first proposal knows four."""
    X, x, w, _ = problems(24, 10, 3.0)
    p = pnp.sample_posterior(X, x, K, 3 * w, robust=pnp.Cauchy(1.0), generator=generator())
    assert p.reliable.double().mean() > 0.85
