"""pnp.ransac: outliers, seeds, and honest failures, with either library inside."""

import importlib.util

import numpy as np
import pytest
import torch

from monopose import Camera, pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import robust

F64 = torch.float64
K = torch.tensor([[572.4, 0.0, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=F64)
BACKENDS = ["opencv"] + (["poselib"] if importlib.util.find_spec("poselib") else [])


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


def test_no_worse_than_poselib_alone():
    """Least squares on the inliers is nearer to the truth than the robust loss that PoseLib ends with: 7 % in the mean."""
    poselib = pytest.importorskip("poselib")
    params = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
    camera_dict = {"model": "PINHOLE", "width": 640, "height": 480, "params": params}
    ours, theirs = [], []
    for seed in range(100):
        X, x, T = problem(256, 0.7, noise=1.0, seed=seed)
        ours.append(degrees(pnp.ransac(X, x, K, backend="poselib").cam_from_obj, T))
        alone, _ = poselib.estimate_absolute_pose(x.numpy(), X.numpy(), camera_dict, {"max_reproj_error": 3.0}, {})
        theirs.append(degrees(torch.from_numpy(robust._pose(alone.R, alone.t)), T))
    assert max(ours) < 5
    assert np.mean(ours) < np.mean(theirs)
    assert sum(e < 1 for e in ours) >= sum(e < 1 for e in theirs)


def test_a_plane_seen_from_afar_gets_the_better_of_its_two_poses(monkeypatch, backend):
    X, _, _ = problem(200)
    X[:, 2] = 0
    tilt = torch.tensor([0.7, 0.2, 0.1], dtype=F64)
    true = se3.from_rt(rotation.so3_exp(tilt), torch.tensor([0.02, 0.03, 1.2], dtype=F64))
    x = camera.project(se3.transform(true, X), K)
    x = x + 0.3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    mirrored = se3.from_rt(rotation.so3_exp(tilt * torch.tensor([-1.0, -1.0, 1.0], dtype=F64)), true[:3, 3])
    wrong = pnp.solve(X, x, K, init=mirrored).cam_from_obj
    assert degrees(wrong, true) > 30
    assert robust._within(wrong.numpy(), X.numpy(), x.numpy(), K.numpy(), 3.0).sum() > 100
    monkeypatch.setattr(robust, f"_{backend}", lambda *_: wrong.numpy())
    assert degrees(pnp.ransac(X, x, K, backend=backend).cam_from_obj, true) < 3


def test_within_counts_what_projects_close_enough_and_in_front():
    X, x, T = problem(50)
    X[0] -= 2 * T[:3, :3].T @ T[:3, 3]  # mirrored behind the camera, near its own pixel's line
    x[0] = camera.project(se3.transform(T, X[:1]), K)[0]
    x[1] += torch.tensor([2.9, 0.0], dtype=F64)
    x[2] += torch.tensor([0.0, -3.1], dtype=F64)
    x[3] += torch.tensor([2.2, 2.2], dtype=F64)
    x[4] = torch.nan
    X[5] = torch.inf
    found = robust._within(T.numpy(), X.numpy(), x.numpy(), K.numpy(), 3.0)
    assert np.flatnonzero(~found).tolist() == [0, 2, 3, 4, 5]


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
        ({"points3d": torch.zeros(2, 10, 3)}, r"points3d must be \(N, 3\) metres, got \(2, 10, 3\); for a batch"),
        ({"points2d": torch.zeros(9, 2)}, r"points2d must be \(10, 2\) pixels to match points3d, got \(9, 2\)"),
        ({"weights": torch.zeros(9)}, r"weights must be \(10,\) or \(10, 2\), got \(9,\)"),
        ({"threshold_px": 0.0}, "threshold_px must be a positive number"),
        ({"backend": "magic"}, "backend must be None"),
        ({"camera": torch.eye(3).expand(2, 3, 3)}, r"one K \(3, 3\), got \(2, 3, 3\)"),
        ({"camera": Camera(torch.eye(3), (4, 4), torch.ones(4))}, "undistort"),
    ],
)
def test_errors_say_what_was_expected(change, message):
    arguments = {"points3d": torch.zeros(10, 3), "points2d": torch.zeros(10, 2), "camera": torch.eye(3)} | change
    with pytest.raises(ValueError, match=message):
        pnp.ransac(**arguments)


def test_a_sample_that_nothing_agrees_with_is_a_failure(monkeypatch, backend):
    """A back end may answer with a pose that no point supports, not even after refinement."""
    far = np.eye(4)
    far[2, 3] = -5.0  # behind the camera: nothing projects
    monkeypatch.setattr(robust, f"_{backend}", lambda *_: far)
    X, x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), torch.rand(20, 2) * 100
    found = pnp.ransac(X, x, torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), backend=backend)
    assert not found.success
    assert "0 inliers of 20" in found.reason
