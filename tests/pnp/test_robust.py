"""pnp.ransac: outliers, seeds, and honest failures, with its own samples and with either library inside."""

import importlib.util
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monopose import Camera, pnp
from monopose.geometry import camera, rotation, se3

F64 = torch.float64
K = torch.tensor([[572.4, 0.0, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=F64)
BACKENDS = [None, "opencv"] + (["poselib"] if importlib.util.find_spec("poselib") else [])


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def problem(n, outliers=0.0, noise=0.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = 0.2 * (torch.rand(n, 3, generator=g, dtype=F64) - 0.5)
    T = se3.from_rt(rotation.random_rotations(1, g, F64)[0], torch.tensor([0.05, -0.02, 0.7], dtype=F64))
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(n, 2, generator=g, dtype=F64)
    bad = int(outliers * n)
    low, high = x.amin(0), x.amax(0)
    x[:bad] = low + (high - low) * torch.rand(bad, 2, generator=g, dtype=F64)
    return X, x, T


def degrees(a, b):
    return float(torch.rad2deg(rotation.angle_between(a[..., :3, :3], b[..., :3, :3])))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7])
def test_recovers_under_outliers(backend, share):
    for seed in range(5):
        X, x, T = problem(200, share, noise=0.5, seed=seed)
        s = pnp.ransac(X, x, K, backend=backend)
        assert s.success
        assert s.reason == ""
        assert degrees(s.cam_from_obj, T) < 1
        assert (s.cam_from_obj[:3, 3] - T[:3, 3]).norm() < 0.01
        good = torch.arange(200) >= int(share * 200)
        assert s.inliers[good].double().mean() > 0.97
        assert s.inliers[~good].sum() <= 0.1 * 200


def test_without_noise_the_pose_is_exact(backend):
    X, x, T = problem(100, 0.5)
    s = pnp.ransac(X, x, Camera(K, (480, 640)), threshold_px=1.0, backend=backend)
    assert s.inliers[50:].all()
    exact = pnp.ransac(X, x, K, threshold_px=0.01, backend=backend)
    assert torch.equal(exact.inliers, torch.arange(100) >= 50)
    torch.testing.assert_close(exact.cam_from_obj, T, rtol=0, atol=1e-7)


def test_four_good_points_are_enough(backend):
    X, x, T = problem(4)
    s = pnp.ransac(X, x, K, backend=backend)
    assert s.success
    torch.testing.assert_close(s.cam_from_obj, T, rtol=0, atol=1e-6)


def test_skew_and_different_focal_lengths(backend):
    X, _, T = problem(50)
    odd = torch.tensor([[600.0, 5.0, 300.0], [0.0, 400.0, 200.0], [0.0, 0.0, 1.0]], dtype=F64)
    s = pnp.ransac(X, camera.project(se3.transform(T, X), odd), odd, backend=backend)
    torch.testing.assert_close(s.cam_from_obj, T, rtol=0, atol=1e-6)


def test_the_same_seed_gives_the_same_result(backend):
    X, x, _ = problem(100, 0.6, noise=1.0)
    torch.manual_seed(0)
    a = pnp.ransac(X, x, K, seed=7, backend=backend)
    torch.manual_seed(1)
    np.random.seed(5)
    b = pnp.ransac(X, x, K, seed=7, backend=backend)
    assert torch.equal(a.cam_from_obj, b.cam_from_obj)
    assert torch.equal(a.inliers, b.inliers)
    different = [pnp.ransac(X, x, K, seed=i, iterations=15, backend=backend).inliers for i in range(20)]
    assert any(not torch.equal(different[0], d) for d in different[1:])


def test_dtype_follows_the_points(backend):
    X, x, T = problem(50)
    s = pnp.ransac(X.float(), x.float(), K, backend=backend)
    assert s.cam_from_obj.dtype == s.covariance.dtype == torch.float32
    torch.testing.assert_close(s.cam_from_obj, T.float(), rtol=0, atol=1e-4)


def test_weights_steer_the_refinement(backend):
    X, x, T = problem(60, noise=0.1)
    x[:30] += 1.5  # within the threshold, all to one side
    w = torch.ones(60, dtype=F64)
    w[:30] = 1e-3
    plain = pnp.ransac(X, x, K, backend=backend)
    for weights in (w, w[:, None].expand(60, 2)):
        s = pnp.ransac(X, x, K, weights=weights, backend=backend)
        assert degrees(s.cam_from_obj, T) < 0.3 * max(degrees(plain.cam_from_obj, T), 0.1) or (
            (s.cam_from_obj - T).norm() < 0.3 * (plain.cam_from_obj - T).norm()
        )


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_pose_is_the_least_squares_of_its_inliers(backend, share):
    for seed in range(4):
        X, x, T = problem(300, share, noise=1.0, seed=seed)
        s = pnp.ransac(X, x, K, backend=backend)
        assert s.success
        best = pnp.solve(X[s.inliers], x[s.inliers], K, init=T)
        torch.testing.assert_close(s.cam_from_obj, best.cam_from_obj, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", [None, "poselib"])
def test_no_worse_than_poselib_alone(backend):
    """Least squares on the inliers is nearer to the truth than the robust loss that PoseLib ends with: 7 % in the mean."""
    poselib = pytest.importorskip("poselib")
    params = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
    camera_dict = {"model": "PINHOLE", "width": 640, "height": 480, "params": params}
    ours, theirs = [], []
    for seed in range(100):
        X, x, T = problem(256, 0.7, noise=1.0, seed=seed)
        ours.append(degrees(pnp.ransac(X, x, K, backend=backend).cam_from_obj, T))
        alone, _ = poselib.estimate_absolute_pose(x.numpy(), X.numpy(), camera_dict, {"max_reproj_error": 3.0}, {})
        theirs.append(degrees(torch.from_numpy(alone.Rt), T))
    assert max(ours) < 5
    assert np.mean(ours) < np.mean(theirs)
    assert sum(e < 1 for e in ours) >= sum(e < 1 for e in theirs)


def test_a_plane_seen_from_afar_gets_the_better_of_its_two_poses(backend):
    X, _, _ = problem(200)
    X[:, 2] = 0
    tilt = torch.tensor([0.7, 0.2, 0.1], dtype=F64)
    true = se3.from_rt(rotation.so3_exp(tilt), torch.tensor([0.02, 0.03, 1.2], dtype=F64))
    x = camera.project(se3.transform(true, X), K)
    x = x + 0.3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    mirrored = se3.from_rt(rotation.so3_exp(tilt * torch.tensor([-1.0, -1.0, 1.0], dtype=F64)), true[:3, 3])
    wrong = pnp.solve(X, x, K, init=mirrored).cam_from_obj
    assert degrees(wrong, true) > 30
    assert within(wrong, X, x, 3.0).sum() > 100
    assert degrees(pnp.ransac(X, x, K, init=wrong, iterations=20, backend=backend).cam_from_obj, true) < 3


def within(pose, X, x, threshold, K=K, z_min=0.0):
    h = se3.transform(pose, X) @ K.mT
    return (h[..., 2] > z_min) & ((h[..., :2] / h[..., 2:] - x).norm(dim=-1) <= threshold)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_inliers_are_those_of_the_returned_pose(backend, share):
    for seed in range(8):
        X, x, _ = problem(150, share, noise=1.5, seed=seed)
        X[0] = -5 * X[0] - 3  # some behind the camera
        s = pnp.ransac(X, x, K, backend=backend)
        assert torch.equal(s.inliers, within(s.cam_from_obj, X, x, 3.0))


def test_the_mirror_image_behind_the_camera_is_no_inlier(backend):
    X, x, T = problem(50)
    X[0] -= 2 * T[:3, :3].T @ T[:3, 3]
    x[0] = camera.project(se3.transform(T, X[:1]), K)[0]
    x[1] += torch.tensor([2.9, 0.0], dtype=F64)
    x[2] += torch.tensor([0.0, -9.1], dtype=F64)
    x[4] = torch.nan
    X[5] = torch.inf
    s = pnp.ransac(X, x, K, backend=backend)
    assert torch.nonzero(~s.inliers)[:, 0].tolist() == [0, 2, 4, 5]


def test_covariance_knows_the_noise(backend):
    sizes = []
    for noise in (0.2, 0.8):
        X, x, T = problem(400, noise=noise)
        s = pnp.ransac(X, x, K, threshold_px=10.0, backend=backend)
        expected = pnp.solve(X, x, K, weights=torch.full((400,), 1 / noise, dtype=F64), init=T).covariance
        ratio = s.covariance.diagonal() / expected.diagonal()
        assert ((ratio > 0.8) & (ratio < 1.25)).all()
        sizes.append(s.covariance.diagonal())
    assert (sizes[1] > 10 * sizes[0]).all()


def test_rows_that_are_not_finite_are_outliers(backend):
    X, x, T = problem(60, noise=0.3)
    X[0] = torch.nan
    x[1, 0] = torch.inf
    w = torch.ones(60, dtype=F64)
    w[2] = torch.nan
    s = pnp.ransac(X, x, K, weights=w, backend=backend)
    assert s.success
    assert not s.inliers[:3].any()
    assert s.inliers[3:].all()
    assert degrees(s.cam_from_obj, T) < 1


def hopeless():
    X, x, _ = problem(40)
    g = torch.Generator().manual_seed(3)
    noise = torch.rand(40, 2, generator=g, dtype=F64) * 300
    return {
        "empty": (X[:0], x[:0]),
        "three points": (X[:3], x[:3]),
        "all nan": (X * torch.nan, x),
        "one place": (X[:1].expand(40, 3), x),
        "one place, one pixel": (X[:1].expand(40, 3), x[:1].expand(40, 2)),
        "one pixel": (X, x[:1].expand(40, 2)),
        "collinear": (X * torch.tensor([1.0, 0, 0], dtype=F64), x),
        "unrelated": (X, noise),
        "huge": (X * 1e200, x),
    }


@pytest.mark.parametrize("kind", hopeless())
def test_hopeless_input_is_a_failure_with_a_reason(backend, kind):
    X, x = hopeless()[kind]
    s = pnp.ransac(X, x, K, backend=backend)
    assert not s.success
    assert len(s.reason) > 10
    assert torch.equal(s.cam_from_obj, torch.eye(4, dtype=F64))
    assert s.inliers.shape == (len(X),)
    assert not s.inliers.any()
    assert s.covariance is None


def test_points_on_a_line_seen_as_a_line_fail(backend):
    X, _, T = problem(40)
    X = X * torch.tensor([1.0, 0, 0], dtype=F64)
    s = pnp.ransac(X, camera.project(se3.transform(T, X), K), K, backend=backend)
    assert not s.success


def test_a_plane_is_fine(backend):
    X, _, T = problem(60)
    X[:, 2] = 0
    s = pnp.ransac(X, camera.project(se3.transform(T, X), K), K, backend=backend)
    assert s.success
    torch.testing.assert_close(s.cam_from_obj, T, rtol=0, atol=1e-6)


def test_more_inliers_can_be_asked_for(backend):
    X, x, _ = problem(20, 0.5)
    assert pnp.ransac(X, x, K, min_inliers=8, backend=backend).success
    s = pnp.ransac(X, x, K, min_inliers=18, backend=backend)
    assert not s.success
    assert "at least 18" in s.reason


def test_the_default_is_one_of_the_backends():
    X, x, _ = problem(60, 0.3, noise=0.5)
    default = pnp.ransac(X, x, K).cam_from_obj
    assert any(torch.equal(default, pnp.ransac(X, x, K, backend=b).cam_from_obj) for b in BACKENDS)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"points3d": torch.zeros(10, 2)}, r"points3d must be \(..., N, 3\) metres, got \(10, 2\)"),
        ({"points2d": torch.zeros(9, 2)}, r"points2d must be \(..., 10, 2\) pixels to match points3d, got \(9, 2\)"),
        ({"weights": torch.zeros(9)}, r"weights must be \(..., 10\) or \(..., 10, 2\), got \(9,\)"),
        ({"threshold_px": 0.0}, "threshold_px must be a positive number"),
        ({"threshold_px": torch.tensor(math.nan)}, "threshold_px must be a positive number"),
        ({"threshold_px": math.inf}, "threshold_px must be a positive number"),
        ({"threshold_px": torch.ones(3)}, r"threshold_px must be a number or \(..., 10\)"),
        ({"threshold_px": torch.arange(1, 11), "backend": "opencv"}, "thresholds of each point are for backend=None"),
        ({"backend": "magic"}, "backend must be None"),
        ({"confidence": 1.0}, "confidence must be"),
        ({"confidence": 0.0}, "confidence must be"),
        ({"confidence": 99.99}, "confidence must be"),
        ({"confidence": math.nan}, "confidence must be"),
        ({"iterations": -5}, "iterations must be"),
        ({"iterations": 0}, "iterations must be"),
        ({"iterations": 2.5}, "iterations must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**70}, "seed must be"),
        ({"iterations": 2**40, "backend": "opencv"}, "iterations must be"),
        ({"min_inliers": -1}, "min_inliers must be"),
        ({"z_min": -1.0}, "z_min must be"),
        ({"z_min": math.nan}, "z_min must be"),
        ({"init": torch.eye(3)}, "init must be"),
        ({"camera": torch.eye(3)[:2]}, r"K of shape \(..., 3, 3\)"),
        ({"camera": torch.eye(3).expand(2, 3, 3), "points3d": torch.zeros(3, 10, 3)}, "do not fit together"),
        ({"camera": Camera(torch.eye(3), (4, 4), torch.ones(4))}, "undistort"),
    ],
)
def test_errors_say_what_was_expected(change, message):
    arguments = {"points3d": torch.zeros(10, 3), "points2d": torch.zeros(10, 2), "camera": torch.eye(3)} | change
    with pytest.raises(ValueError, match=message):
        pnp.ransac(**arguments)


# --------------------------------------------------------------------------------------------------- confidence and samples


def chance_of_inliers_alone(inliers, total, samples, of=3):
    return 1 - (1 - math.comb(inliers, of) / math.comb(total, of)) ** samples


@pytest.mark.parametrize("iterations", [10, 100, 1000, 20000])
def test_success_means_that_the_confidence_was_reached(backend, iterations):
    X, x, T = problem(300, 0.85, noise=1.0, seed=4)
    s = pnp.ransac(X, x, K, iterations=iterations, backend=backend)
    assert 0 < s.samples <= iterations
    assert s.success == (s.confidence >= 0.9999) == (s.reason == "")
    if s.inliers.any():
        of = 4 if backend == "opencv" else 3
        expected = chance_of_inliers_alone(int(s.inliers.sum()), 300, s.samples, of)
        assert s.confidence == pytest.approx(expected, abs=1e-12)
    if s.success:
        assert degrees(s.cam_from_obj, T) < 5
    elif s.inliers.any():
        assert "allow more iterations" in s.reason
    if iterations <= 100:
        assert not s.success


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(4, 120),
    outliers=st.floats(0, 0.95),
    confidence=st.sampled_from([0.9, 0.99, 0.9999]),
    iterations=st.sampled_from([20, 300, 5000]),
    backend=st.sampled_from(BACKENDS),
)
@settings(max_examples=60, deadline=None)
def test_success_is_never_more_than_it_says(seed, n, outliers, confidence, iterations, backend):
    X, x, T = problem(n, outliers, noise=0.5, seed=seed)
    s = pnp.ransac(X, x, K, confidence=confidence, iterations=iterations, seed=seed, backend=backend)
    count = int(s.inliers.sum())
    assert s.success == (not s.reason)
    assert s.samples <= iterations
    if count:
        expected = chance_of_inliers_alone(count, n, s.samples, 4 if backend == "opencv" else 3)
        assert s.confidence == pytest.approx(expected, abs=1e-12)
    if s.success:
        assert s.confidence >= confidence
        off = (camera.project(se3.transform(s.cam_from_obj, X), K) - x).norm(dim=-1)
        assert torch.equal(s.inliers, off <= 3.0)
        assert count < 12 or degrees(s.cam_from_obj, T) < 10
    elif s.confidence >= confidence:
        assert re.search("chance|needed|do not fix", s.reason)


def test_ninety_percent_of_outliers_are_no_reason_to_err():
    right = 0
    for seed in range(20):
        X, x, T = problem(500, 0.9, noise=1.0, seed=seed)
        s = pnp.ransac(X, x, K)
        assert not s.success or degrees(s.cam_from_obj, T) < 5
        right += s.success
    assert right >= 18


def test_samples_follow_the_inliers():
    counts = [pnp.ransac(*problem(200, share, noise=0.5)[:2], K).samples for share in (0.0, 0.5, 0.8)]
    assert counts[0] < counts[1] < counts[2] < 20000
    X, x, _ = problem(200, 0.5, noise=0.5)
    less, more = (pnp.ransac(X, x, K, confidence=c) for c in (0.9, 1 - 1e-9))
    assert less.samples < more.samples
    assert less.success
    assert more.success


# ------------------------------------------------------------------------------------------- frames, units, cameras, repeats


def camera_of(kind):
    """A K and the rotation by which its camera is turned from the plain one."""
    turn = torch.eye(3, dtype=F64)
    if kind == "photo turned by 90 degrees":
        turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
        return torch.tensor([[0.0, -573.6, 242.0], [572.4, 0.0, 325.3], [0.0, 0.0, 1.0]], dtype=F64), None
    if kind == "2 K":
        return 2 * K, turn
    if kind == "skew":
        return K + torch.tensor([[0.0, 40.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64), turn
    if kind == "K R":
        turn = rotation.so3_exp(torch.tensor([0.4, -0.3, 0.2], dtype=F64))
        return K @ turn, turn
    return K, turn


KINDS = ["plain", "photo turned by 90 degrees", "2 K", "skew", "K R"]


@given(
    seed=st.integers(0, 1000),
    shift=st.sampled_from([0.0, 1.0, 1e3, 5e6]),
    unit=st.sampled_from([1e-3, 1.0, 1e3]),
    kind=st.sampled_from(KINDS),
    backend=st.sampled_from(BACKENDS),
    planar=st.booleans(),
)
@settings(max_examples=60)
def test_neither_origin_nor_unit_nor_the_cut_of_K_matters(seed, shift, unit, kind, backend, planar):
    X, _, T = problem(60, seed=seed)
    if planar:
        X[:, 2] = 0
    k, turn = camera_of(kind)
    if turn is not None:
        T = se3.from_rt(turn.mT @ T[:3, :3], turn.mT @ T[:3, 3])
    g = torch.Generator().manual_seed(seed)
    x = camera.project(se3.transform(T, X), k) + 0.5 * torch.randn(60, 2, generator=g, dtype=F64)
    x[:20] = 300 * torch.rand(20, 2, generator=g, dtype=F64)
    s = pnp.ransac(X, x, k, backend=backend)
    assert s.success
    assert degrees(s.cam_from_obj, T) < 3
    moved = pnp.ransac(unit * X + shift * torch.tensor([0.3, -1.0, 0.2], dtype=F64), x, k, backend=backend)
    assert moved.success
    assert torch.equal(moved.inliers, s.inliers)
    assert degrees(moved.cam_from_obj, s.cam_from_obj) < 1e-4
    back = moved.cam_from_obj[:3, 3] + shift * moved.cam_from_obj[:3, :3] @ torch.tensor([0.3, -1.0, 0.2], dtype=F64)
    torch.testing.assert_close(back / unit, s.cam_from_obj[:3, 3], rtol=0, atol=1e-5 / unit if shift > 1e5 else 1e-6)
    # the covariance of the pose about the same point: v' = v + (R shift) x omega
    A = torch.eye(6, dtype=F64)
    A[:3, 3:] = rotation.skew(-shift * moved.cam_from_obj[:3, :3] @ torch.tensor([0.3, -1.0, 0.2], dtype=F64))
    A[:3] /= unit
    # A turn by 1e-3 rad about an origin 1e5 sizes away moves the object by 100 of them, and its variance, 1e4, leaves the
    # variance of the centre, 1e-8, no more than the last four of float64's sixteen digits. Beyond, the caller's own frame
    # cannot hold the covariance, whoever computes it.
    if shift < 1e5 * unit:
        std = s.covariance.diagonal().sqrt()
        expected, got = s.covariance / std / std[:, None], A @ moved.covariance @ A.mT / std / std[:, None]
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-3)


@given(seed=st.integers(0, 100), times=st.integers(2, 20), distinct=st.integers(1, 3), backend=st.sampled_from(BACKENDS))
@settings(max_examples=30)
def test_repeated_points_count_once(seed, times, distinct, backend):
    X, x, _ = problem(distinct, noise=0.2, seed=seed)
    s = pnp.ransac(X.repeat(times, 1), x.repeat(times, 1), K, backend=backend)
    assert not s.success
    assert f"{distinct} different" in s.reason
    # the same point seen many times, never at the same pixel
    more = x.repeat(times, 1) + 0.1 * torch.randn(times * distinct, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
    assert not pnp.ransac(X.repeat(times, 1), more, K, backend=backend).success


@pytest.mark.parametrize("crowd", [50, 300])
def test_a_crowd_of_wrong_matches_in_one_place_is_no_success(backend, crowd):
    """Any pose that takes the place to the pixel, and two more points, has more inliers than the true one."""
    X, x, T = problem(20, 0.0, noise=0.5, seed=1)
    g = torch.Generator().manual_seed(0)
    X = torch.cat([X, X[:1] + 1e-4 * torch.randn(crowd, 3, generator=g, dtype=X.dtype)])
    x = torch.cat([x, torch.tensor([50.0, 50.0]) + 0.3 * torch.randn(crowd, 2, generator=g, dtype=x.dtype)])
    s = pnp.ransac(X, x, K, backend=backend)
    assert not s.success or degrees(s.cam_from_obj, T) < 5
    assert s.success or re.search("one place|do not fix a pose|allow more iterations", s.reason)
    both = torch.cat([X[:20], X[:1].expand(20, 3) + 0.01 * torch.rand(20, 3, generator=g, dtype=X.dtype)])
    right = camera.project(se3.transform(T, both), K)
    s = pnp.ransac(both, right, K, backend=backend)  # a crowd that is right does no harm
    assert s.success
    assert degrees(s.cam_from_obj, T) < 1


def test_repeating_everything_changes_nothing():
    X, x, _ = problem(50, 0.4, noise=0.5)
    once, thrice = pnp.ransac(X, x, K), pnp.ransac(X.repeat(3, 1), x.repeat(3, 1), K)
    torch.testing.assert_close(thrice.cam_from_obj, once.cam_from_obj, rtol=0, atol=1e-9)
    torch.testing.assert_close(thrice.covariance, once.covariance)
    assert torch.equal(thrice.inliers, once.inliers.repeat(3))


# ------------------------------------------------------------------------------------------------- batches and other options


@pytest.mark.slow
def test_a_batch_is_what_each_problem_is_alone(backend):
    rows = [problem(80, share, noise=0.7, seed=i) for i, share in enumerate((0.0, 0.3, 0.6, 0.75, 0.2, 0.5))]
    X, x = torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])
    X[4] = X[4, :1]  # nothing to find
    X[2, 70:] = torch.nan
    x[3, :3] = x[3, 3:6]
    k = K.expand(6, 3, 3).clone()
    k[5] = 2 * K
    many = pnp.ransac(X.view(2, 3, 80, 3), x.view(2, 3, 80, 2), k.view(2, 3, 3, 3), backend=backend)
    assert many.cam_from_obj.shape == (2, 3, 4, 4)
    assert many.inliers.shape == (2, 3, 80)
    assert many.covariance.shape == (2, 3, 6, 6)
    assert many.success.shape == many.confidence.shape == many.samples.shape == (2, 3)
    assert many.success.view(-1).tolist() == [True, True, True, True, False, True]
    for i in range(6):
        one = pnp.ransac(X[i], x[i], k[i], backend=backend)
        assert bool(many.success.view(-1)[i]) == one.success
        assert many.reason[i] == one.reason
        assert int(many.samples.view(-1)[i]) == one.samples
        assert float(many.confidence.view(-1)[i]) == one.confidence
        assert torch.equal(many.inliers.view(6, 80)[i], one.inliers)
        torch.testing.assert_close(many.cam_from_obj.view(6, 4, 4)[i], one.cam_from_obj, rtol=0, atol=1e-9)
        if one.success:
            torch.testing.assert_close(many.covariance.view(6, 6, 6)[i], one.covariance, rtol=1e-6, atol=1e-15)
        else:
            assert torch.isinf(many.covariance.view(6, 6, 6)[i]).all()
    none = pnp.ransac(X[:0], x[:0], K)
    assert none.cam_from_obj.shape == (0, 4, 4)
    assert none.reason == ()


def test_points_of_weight_zero_are_absent(backend):
    X, x, _ = problem(60, 0.3, noise=0.5)
    w = torch.ones(60, dtype=F64)
    w[50:] = 0
    X[50:] = torch.nan
    s, less = pnp.ransac(X, x, K, w, backend=backend), pnp.ransac(X[:50], x[:50], K, backend=backend)
    assert s.success
    assert not s.inliers[50:].any()
    torch.testing.assert_close(s.cam_from_obj, less.cam_from_obj, rtol=0, atol=1e-6)


def test_every_point_can_have_its_own_threshold():
    X, x, T = problem(200, noise=0.2)
    g = torch.Generator().manual_seed(0)
    px = torch.where(torch.arange(200) < 100, 1.0, 12.0).double()
    x = x + px[:, None] / 4 * torch.randn(200, 2, generator=g, dtype=F64)
    s = pnp.ransac(X, x, K, threshold_px=px)
    assert s.success
    assert torch.equal(s.inliers, within(s.cam_from_obj, X, x, px))
    assert s.inliers.double().mean() > 0.95
    assert degrees(s.cam_from_obj, T) < 2
    same = pnp.ransac(X, x, K, threshold_px=torch.full((200,), 2.0)), pnp.ransac(X, x, K, threshold_px=torch.tensor(2.0))
    assert torch.equal(same[0].cam_from_obj, same[1].cam_from_obj)


def test_a_pose_that_is_given_competes(backend):
    """97 % of outliers, and hardly any samples: only the given pose can be right; but that it is, nobody knows."""
    X, x, T = problem(1000, 0.97, noise=0.5, seed=3)
    near = se3.retract(T, torch.tensor([0.001, 0.0, 0.002, 0.003, 0.0, 0.002], dtype=F64))
    assert not pnp.ransac(X, x, K, iterations=30, backend=backend).success
    s = pnp.ransac(X, x, K, iterations=30, init=near, backend=backend)
    assert degrees(s.cam_from_obj, T) < 1.5
    assert not s.success
    assert s.confidence < 0.1
    for bad in (torch.full((4, 4), math.nan), torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])), torch.zeros(4, 4)):
        good = pnp.ransac(*problem(60, 0.3)[:2], K, init=bad, backend=backend)
        assert good.success
        torch.testing.assert_close(torch.linalg.det(good.cam_from_obj[:3, :3]), torch.tensor(1.0, dtype=F64))


def test_points_nearer_than_z_min_are_no_inliers(backend):
    X, x, T = problem(60)
    depth = se3.transform(T, X)[:, 2]
    limit = float(depth.median())
    s = pnp.ransac(X, x, K, z_min=limit, backend=backend)
    assert torch.equal(s.inliers, depth > limit)


@given(seed=st.integers(0, 10_000), near=st.floats(0.02, 3.0))
@settings(max_examples=100)
def test_three_points_have_their_pose_among_at_most_four(seed, near):
    """Every pose puts the points on their rays, and the true one is among them."""
    from monopose.pnp.kernels import numba_ransac

    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (3, 3))
    T = se3.from_rt(
        rotation.random_rotations(1, torch.Generator().manual_seed(seed), F64)[0], torch.zeros(3, dtype=F64)
    ).numpy()
    p = X @ T[:3, :3].T
    T[:3, 3] = rng.uniform(-1, 1, 3) - [0, 0, p[:, 2].min() - 1 - near]
    p = p + T[:3, 3]
    rays = p / np.linalg.norm(p, axis=1, keepdims=True)
    poses = np.zeros((4, 4, 4))
    count = numba_ransac.three_points(X, rays, poses, np.empty((3, 3)), np.empty((3, 3)), np.empty(3))
    assert 1 <= count <= 4
    for pose in poses[:count]:
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        seen = X @ pose[:3, :3].T + pose[:3, 3]
        np.testing.assert_allclose(seen / np.linalg.norm(seen, axis=1, keepdims=True), rays, atol=1e-7)
    assert min(np.abs(pose[:3] - T[:3]).max() for pose in poses[:count]) < 1e-4


def test_one_wild_match_does_not_make_chance_look_unlikely():
    """It may be anywhere, so that the box of all pixels says nothing of where wrong matches are."""
    g = torch.Generator().manual_seed(0)
    X = torch.rand(12, 30, 3, generator=g, dtype=F64) - 0.5
    x = torch.rand(12, 30, 2, generator=g, dtype=F64) * torch.tensor([640.0, 480.0], dtype=F64)
    for wild in (x[0, 0], 1e4, 1e8):
        x[:, 0] = wild
        found = pnp.ransac(X, x, K, threshold_px=40.0, confidence=0.99, iterations=2000)
        assert not found.success.any(), found.reason


@pytest.mark.parametrize("wild", [1e3, 1e12, 1e90])
def test_wild_points_do_not_make_the_others_too_near(wild):
    X, x, T = problem(60, noise=0.5)
    X[::6], x[1::6] = X[::6] * wild, x[1::6] * wild
    found = pnp.ransac(X, x, K)
    assert found.success, found.reason
    assert degrees(found.cam_from_obj, T) < 1
    assert found.inliers.sum() == 40
