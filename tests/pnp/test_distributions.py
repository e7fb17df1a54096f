"""pnp.distributions: densities integrate to one, samplers follow them, fits find them, in one measure of rotations."""

import math

import pytest
import scipy.stats
import torch

from monopose.geometry import rotation
from monopose.pnp import distributions

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_tril(n, seed):
    A = torch.randn(n, n, generator=generator(seed), dtype=F64)
    return torch.linalg.cholesky(A @ A.mT + 0.1 * torch.eye(n, dtype=F64))


def sphere(cells=44):
    """Quadrature on S^3: unit vectors (n, 4) and their areas (n,), midpoints of the angles."""
    a, b = (
        (torch.arange(cells, dtype=F64) + 0.5) * math.pi / cells,
        (torch.arange(2 * cells, dtype=F64) + 0.5) * math.pi / cells,
    )
    a, b, c = torch.meshgrid(a, a, b, indexing="ij")
    points = torch.stack([a.cos(), a.sin() * b.cos(), a.sin() * b.sin() * c.cos(), a.sin() * b.sin() * c.sin()], -1)
    return points.flatten(0, 2), (a.sin() ** 2 * b.sin() * (math.pi / cells) ** 3).flatten()


def kolmogorov(samples, cdf):
    return scipy.stats.kstest(samples.numpy(), cdf).pvalue


def test_student_t_is_that_of_scipy():
    tril, loc = random_tril(3, 1), torch.tensor([0.3, -1.0, 2.0], dtype=F64)
    x = torch.randn(50, 3, generator=generator(), dtype=F64) * 3
    expected = scipy.stats.multivariate_t(loc.numpy(), (tril @ tril.mT).numpy(), df=3).logpdf(x.numpy())
    torch.testing.assert_close(distributions.student_t_log_prob(x, loc, tril), torch.from_numpy(expected))


def test_student_t_samples_have_its_distances_and_its_axes():
    tril, loc = random_tril(3, 1), torch.tensor([0.3, -1.0, 2.0], dtype=F64)
    x = distributions.student_t_sample(loc.expand(20000, 3), tril.expand(20000, 3, 3), generator())
    y = torch.linalg.solve_triangular(tril, (x - loc).mT, upper=False)
    assert kolmogorov(y.square().sum(0) / 3, scipy.stats.f(3, 3).cdf) > 1e-3
    for row in y:
        assert kolmogorov(row, scipy.stats.t(3).cdf) > 1e-3
    direction = y / y.norm(dim=0)
    torch.testing.assert_close(direction @ direction.mT / 20000, torch.eye(3, dtype=F64) / 3, atol=0.02, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_angular_central_gaussian_integrates_to_one_and_forgets_sign_and_scale(seed):
    tril = random_tril(4, seed)
    q, area = sphere()
    density = distributions.acg_log_prob(q, tril).exp()
    assert abs((density * area).sum() - 1) < 2e-3
    assert abs(area.sum() - math.exp(distributions.LOG_SPHERE)) < 2e-2
    torch.testing.assert_close(density, distributions.acg_log_prob(-q, 3 * tril).exp())


def test_angular_central_gaussian_samples_have_its_moments():
    tril = random_tril(4, 3)
    q, area = sphere()
    expected = (q * (distributions.acg_log_prob(q, tril).exp() * area)[:, None]).mT @ q
    drawn = distributions.acg_sample(tril.expand(40000, 4, 4), generator())
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(40000, dtype=F64))
    torch.testing.assert_close(drawn.mT @ drawn / 40000, expected, atol=0.01, rtol=0)


def test_angular_central_gaussian_fit_finds_the_dispersion():
    tril = random_tril(4, 4)
    dispersion = tril @ tril.mT / (tril @ tril.mT).trace()
    drawn = distributions.acg_sample(tril.expand(40000, 4, 4), generator())
    found = distributions.acg_fit(drawn, torch.ones(40000, dtype=F64), iterations=50)
    torch.testing.assert_close(found, dispersion, atol=0.01, rtol=0)
    # doubling weights is drawing twice; the three iterations of sampling come close
    weights = torch.rand(100, generator=generator(), dtype=F64).round(decimals=1)
    counts = (weights * 10).round().long()
    torch.testing.assert_close(
        distributions.acg_fit(drawn[:100], weights),
        distributions.acg_fit(drawn[:100].repeat_interleave(counts, 0), torch.ones(int(counts.sum()), dtype=F64)),
    )
    assert (distributions.acg_fit(drawn, torch.ones(40000, dtype=F64)) - dispersion).abs().max() < 0.1


def test_widened_factor_is_that_of_a_dispersion_and_never_fails():
    dispersion = random_tril(4, 5) @ random_tril(4, 5).mT
    tril = distributions.acg_tril(dispersion)
    torch.testing.assert_close(tril @ tril.mT, dispersion / dispersion.trace(), atol=1e-3, rtol=0)
    flat = torch.zeros(4, 4, dtype=F64)
    flat[0, 0] = 1.0
    for bad in (flat, -dispersion, dispersion * math.nan, 0 * dispersion):
        assert torch.isfinite(distributions.acg_log_prob(torch.full((4,), 0.5, dtype=F64), distributions.acg_tril(bad)))


@pytest.mark.parametrize("kappa", [0.0, 0.3, 4.0, 1e3, 1e9])
def test_von_mises_is_that_of_scipy(kappa):
    angle = torch.linspace(-3, 3, 41, dtype=F64) / math.sqrt(1 + kappa)
    k, loc = torch.tensor(kappa, dtype=F64), torch.tensor(0.1, dtype=F64) / math.sqrt(1 + kappa)
    found = distributions.von_mises_log_prob(angle, loc, k)
    if kappa <= 1e3:
        expected = scipy.stats.vonmises(max(kappa, 1e-12), loc=float(loc)).logpdf(angle.numpy())
    else:
        expected = scipy.stats.norm(float(loc), kappa**-0.5).logpdf(angle.numpy())
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-6, atol=1e-6)
    drawn = distributions.von_mises_sample(k, 20000, generator())
    assert drawn.abs().max() <= math.pi
    cdf = scipy.stats.vonmises(kappa).cdf if 0 < kappa <= 1e3 else scipy.stats.norm(0, max(kappa, 1) ** -0.5).cdf
    assert kolmogorov(drawn, cdf if kappa else scipy.stats.uniform(-math.pi, 2 * math.pi).cdf) > 1e-3


def test_concentration_follows_from_the_mean_length():
    kappa = torch.tensor([0.01, 0.5, 2.0, 10.0, 1e4], dtype=F64)
    length = torch.special.i1e(kappa) / torch.special.i0e(kappa)
    torch.testing.assert_close(distributions.von_mises_kappa(length), kappa, rtol=0.12, atol=0)
    assert torch.isfinite(distributions.von_mises_kappa(torch.ones(1)))


def test_small_turns_are_the_derivative_of_turning():
    quat = torch.nn.functional.normalize(torch.randn(4, generator=generator(), dtype=F64), dim=-1)
    for axis in range(3):
        omega = torch.zeros(3, dtype=F64)
        omega[axis] = 1e-5
        turned = rotation.quat_wxyz_from_matrix(rotation.so3_exp(omega) @ rotation.matrix_from_quat_wxyz(quat))
        turned = turned * torch.sign((turned * quat).sum())
        torch.testing.assert_close((turned - quat) / 5e-6, distributions.small_turns(quat)[axis], atol=1e-4, rtol=0)


def test_rotations_measure_eight_pi_squared():
    """Uniform quaternions within an angle: the volume of the ball of rotation vectors with Haar's weight."""
    R = rotation.random_rotations(40000, generator(), F64)
    angle = rotation.angle_between(R, torch.eye(3, dtype=F64))
    share = (angle < 0.8).double().mean()
    volume = 8 * math.pi * (0.4 - math.sin(0.8) / 2) * 2  # integral of 4 pi theta^2 (sin(theta / 2) / (theta / 2))^2
    assert abs(share * math.exp(distributions.LOG_ROTATIONS) - volume) < 0.1


def test_the_same_seed_draws_the_same():
    tril, quat = random_tril(3, 0).expand(5, 3, 3), random_tril(4, 0).expand(5, 4, 4)
    for draw in (
        lambda g: distributions.student_t_sample(torch.zeros(5, 3, dtype=F64), tril, g),
        lambda g: distributions.acg_sample(quat, g),
        lambda g: distributions.von_mises_sample(torch.ones(3, dtype=F64), 4, g),
    ):
        assert torch.equal(draw(generator(7)), draw(generator(7)))
        assert not torch.equal(draw(generator(7)), draw(generator(8)))
