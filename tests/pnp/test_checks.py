"""The doors of the PnP layers: options, poses on trust, and every row of the table of bad input in docs/pnp.md."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monopose import pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import Reason, checks, kernels
from monopose.pnp.prepare import prepare

F64 = torch.float64
K = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], dtype=F64)
EYE = torch.eye(4, dtype=F64)
QUICK = settings(max_examples=25, deadline=None)


def problems(batch=6, n=10, noise=0.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = 0.2 * (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5)
    z = 0.7 + torch.rand(batch, 1, generator=g, dtype=F64)
    T = se3.from_rt(rotation.random_rotations(batch, g, F64), torch.cat([0.1 * z, -0.1 * z, z], 1))
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(batch, n, 2, generator=g, dtype=F64)
    return X, x, T


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def back_end(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(kernels, "backend", lambda device: None)


# ---------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "option, message",
    [
        ({"robust": pnp.Huber(-1.0)}, "Huber's delta must be a positive number"),
        ({"robust": pnp.Huber(math.nan)}, "Huber's delta must be a positive number"),
        ({"robust": pnp.Huber("1")}, "Huber's delta must be a positive number"),
        ({"robust": pnp.Cauchy(0)}, "Cauchy's delta must be a positive number"),
        ({"robust": pnp.Cauchy(torch.tensor(-2.0))}, "Cauchy's delta must be a positive number"),
        ({"robust": pnp.AdaptiveHuber(-1.0)}, "AdaptiveHuber's relative must be a finite number > 0"),
        ({"robust": pnp.AdaptiveHuber(math.inf)}, "AdaptiveHuber's relative must be a finite number > 0"),
        ({"robust": "huber"}, "robust must be pnp.Huber"),
        ({"iterations": -1}, "iterations must be an integer >= 0"),
        ({"iterations": 2.5}, "iterations must be an integer >= 0"),
        ({"iterations": True}, "iterations must be an integer >= 0"),
        ({"z_min": math.nan}, "z_min must be a finite number > 0, got nan"),
        ({"z_min": -1.0}, "z_min must be a finite number > 0"),
        ({"z_min": 0}, "z_min must be a finite number > 0"),
        ({"z_min": torch.tensor(0.01)}, "z_min must be a finite number > 0"),
        ({"proposals": -1}, "proposals must be an integer >= 0"),
        ({"dof": 5}, "dof must be 6"),
        ({"dof": 6.0}, "dof must be 6"),
        ({"generator": 3}, "generator must be a torch.Generator"),
        ({"points3d": "points"}, "points3d must be a torch tensor"),
        ({"points2d": torch.zeros(10, 2, dtype=torch.complex64)}, "points2d must hold real numbers"),
        ({"camera": None}, "camera must be a torch tensor"),
        ({"weights": torch.ones(10, dtype=torch.bool)}, "weights must hold real numbers"),
        ({"iterations": 2**31}, "iterations must be an integer >= 0"),
        ({"trust_region": "no"}, "trust_region must be True or False"),
        ({"points3d": torch.rand(10, 3).to_sparse()}, "points3d must hold real numbers in a dense tensor"),
        ({"points3d": np.ma.masked_less(np.random.default_rng(0).random((10, 3)), 0.5)}, "a mask would be lost"),
        ({"points2d": np.full((10, 2), None)}, "points2d must be a torch tensor .* got ndarray of object"),
    ],
)
@pytest.mark.parametrize("layer", [pnp.solve, pnp.solve_implicit])
def test_options_out_of_range_raise_and_name_themselves(layer, option, message):
    arguments = {"points3d": torch.rand(10, 3), "points2d": torch.rand(10, 2), "camera": K.float()} | option
    with pytest.raises(ValueError, match=message):
        layer(**arguments)


@pytest.mark.slow
@QUICK
@given(st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(), st.booleans(), st.text(), st.none()))
def test_every_option_is_taken_or_refused_in_our_words(value):
    X, x, _ = problems(1)
    for name in ("iterations", "z_min", "proposals", "dof"):
        if name in ("proposals", "iterations") and isinstance(value, int) and value > 40:
            continue
        try:
            found = pnp.solve(X, x, K, **{name: value})
        except ValueError as error:
            assert str(error).startswith(name)  # noqa: PT017
        else:
            assert torch.isfinite(found.cam_from_obj).all()


def test_numbers_of_numpy_are_numbers():
    X, x, T = problems()
    expected = pnp.solve(X, x, K, init=T, robust=pnp.Huber(2.0))
    found = pnp.solve(
        X.numpy(), x.numpy(), K.numpy(), np.ones(10), init=T.numpy(), iterations=np.int64(30),
        robust=pnp.Huber(np.float32(2.0)), dof=np.int32(6),
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    listed = pnp.solve(X[0].tolist(), x[0].tolist(), K.tolist())
    assert listed.converged


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["backwards", "big endian", "read only", "transposed", "lists"])
def test_arrays_of_any_layout_are_taken(kind):
    """x, y of row, column is `[..., ::-1]`, which torch.as_tensor does not take; nor does it other byte orders."""
    X, x, _ = problems()
    change = {
        "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1], "big endian": lambda a: a.astype(">f8"),
        "read only": lambda a: np.broadcast_to(a, a.shape), "transposed": np.asfortranarray,
        "lists": lambda a: a.tolist(),
    }[kind]  # fmt: skip
    given = change(X.numpy()), change(x.numpy()), K.tolist() if kind == "lists" else np.asfortranarray(K.numpy())
    expected, found = pnp.solve(X, x, K), pnp.solve(*given)
    torch.testing.assert_close(found.cam_from_obj.double(), expected.cam_from_obj, rtol=0, atol=1e-4)
    robust = pnp.ransac(*given)
    assert isinstance(robust.cam_from_obj, torch.Tensor)
    torch.testing.assert_close(robust.cam_from_obj.double(), pnp.ransac(X, x, K).cam_from_obj, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bad", [[math.nan, 0, 640, 480], [640, 480, 0, 0], [0, 0, 640, math.nan]])
def test_bounds_that_are_none_fail_alone(bad, back_end):
    X, x, T = problems()
    bounds = torch.tensor([0.0, 0, 640, 480], dtype=F64).repeat(6, 1)
    bounds[3] = torch.tensor(bad)
    x.requires_grad_()
    found = pnp.solve_implicit(X, x, K, init=T, bounds=bounds)
    assert found.converged.tolist() == [i != 3 for i in range(6)]
    assert found.reason[3] == Reason.NOT_FINITE
    (gradient,) = torch.autograd.grad(found.cam_from_obj.sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient[3] == 0).all()


def test_a_weight_counts_by_its_size():
    X, x, T = problems()
    sign = torch.where(torch.arange(10) % 2 == 0, 1.0, -1.0).to(F64)
    for layer in (lambda w: pnp.solve(X, x, K, w), lambda w: pnp.solve(X, x, K, w, init=T, robust=pnp.Huber(1.0))):
        torch.testing.assert_close(layer(sign), layer(sign.abs()))
    assert torch.equal(pnp.ransac(X[0], x[0], K, sign).cam_from_obj, pnp.ransac(X[0], x[0], K).cam_from_obj)


def test_a_threshold_that_is_none_fails_alone():
    X, x, T = problems()
    delta = torch.tensor([1.0, -1.0, math.nan, 2.0, math.inf, 0.0], dtype=F64)
    found = pnp.solve(X, x, K, init=T, robust=pnp.Huber(delta))
    assert found.converged.tolist() == [True, False, False, True, True, False]
    assert found.reason[[1, 2, 5]].tolist() == [Reason.NOT_FINITE] * 3
    squares = pnp.solve(X, x, K, init=T)
    torch.testing.assert_close(found.cam_from_obj[4], squares.cam_from_obj[4], rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------------------------------------------ poses


def scaled(T, by):
    return torch.cat([torch.cat([by * T[..., :3, :3], T[..., :3, 3:]], -1), T[..., 3:, :]], -2)


NEARLY = {
    "scaled by 1.01": lambda T: scaled(T, 1.01),
    "bfloat16": lambda T: T.bfloat16().to(T),
    "float16": lambda T: T.half().to(T),
    "last row off": lambda T: T + 0.01 * torch.tensor([[0.0] * 4] * 3 + [[1.0, -1, 1, 1]]).to(T),
}
NOT = {
    "scaled by 2": lambda T: scaled(T, 2.0),
    "scaled by 0": lambda T: scaled(T, 0.0),
    "mirrored": lambda T: torch.diag(torch.tensor([-1.0, 1, 1, 1])).to(T) @ T,
    "last row of sevens": lambda T: torch.cat([T[..., :3, :], torch.full_like(T[..., :1, :], 7.0)], -2),
    "transposed": lambda T: T.mT.clone() + torch.tensor([[0.0] * 4] * 3 + [[0, 0, 1, 0]]).to(T),
    "nan": lambda T: T * torch.nan,
    "inf": lambda T: T + torch.tensor([[0.0, 0, 0, math.inf]] + [[0.0] * 4] * 3).to(T),
    "zeros": lambda T: torch.zeros_like(T),
}


@pytest.mark.parametrize("kind", NEARLY)
@pytest.mark.parametrize("dof", [6, 4])
def test_a_start_that_is_nearly_rigid_is_made_so(kind, dof, back_end):
    X, x, T = problems()
    found = pnp.solve(X, x, K, init=NEARLY[kind](T), dof=dof)
    R = found.cam_from_obj[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, EYE[:3, :3].expand_as(R), rtol=0, atol=1e-12)
    assert (found.cam_from_obj[:, 3] == EYE[3]).all()
    if dof == 6:
        assert found.converged.all()
        torch.testing.assert_close(found.cam_from_obj, pnp.solve(X, x, K, init=T).cam_from_obj, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", NOT)
@pytest.mark.parametrize("dof", [6, 4])
def test_a_start_that_is_no_rigid_motion_fails_alone(kind, dof, back_end):
    X, x, T = problems()
    init = T.clone()
    init[2] = NOT[kind](T[2])
    found, clean = pnp.solve(X, x, K, init=init, dof=dof), pnp.solve(X, x, K, init=T, dof=dof)
    assert not found.converged[2]
    assert found.reason[2] == Reason.NOT_FINITE
    torch.testing.assert_close(found.cam_from_obj[2], EYE, rtol=0, atol=1e-12)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found.converged[others], clean.converged[others])
    torch.testing.assert_close(found.cam_from_obj[others], clean.cam_from_obj[others], rtol=0, atol=1e-9)


@QUICK
@given(st.integers(0, 2**31), st.floats(0, 0.02), st.sampled_from([torch.float32, F64]))
def test_projection_to_rigid_motions_is_the_nearest_one(seed, size, dtype):
    g = torch.Generator().manual_seed(seed)
    T = se3.from_rt(rotation.random_rotations(5, g, F64), torch.randn(5, 3, generator=g, dtype=F64))
    near = T.clone()
    near[:, :3, :3] += size * (torch.rand(5, 3, 3, generator=g, dtype=F64) - 0.5)
    made, fine = se3.project(near.to(dtype))
    assert fine.all()
    digits = 1e-12 if dtype == F64 else 3e-6
    torch.testing.assert_close(made[:, :3, :3].double(), rotation.nearest_rotation(near[:, :3, :3]), rtol=0, atol=digits)
    exact, _ = se3.project(T)
    assert torch.equal(exact, T)


def test_projection_has_the_gradient_of_the_polar_factor():
    T = se3.from_rt(rotation.random_rotations(2, torch.Generator().manual_seed(0), F64), torch.ones(2, 3, dtype=F64))
    near = (
        T + 0.005 * torch.sin(torch.arange(32, dtype=F64)).reshape(2, 4, 4) * torch.tensor([[1.0]] * 3 + [[0.0]])
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: se3.project(v)[0], near)


@pytest.mark.parametrize("kind", NOT)
def test_a_truth_that_is_no_rigid_motion_has_no_loss(kind):
    X, x, T = problems()
    x = x.requires_grad_()
    posterior = pnp.sample_posterior(X, x, K, init=T, samples=64)
    truth = T.clone()
    truth[1] = NOT[kind](T[1])
    loss = pnp.monte_carlo_loss(posterior, truth)
    expected = pnp.monte_carlo_loss(posterior, T)
    assert loss[1] == 0
    torch.testing.assert_close(loss[[0, 2, 3, 4, 5]], expected[[0, 2, 3, 4, 5]])
    loss.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[1] == 0).all()


# --------------------------------------------------------------------------------------------- the table of docs/pnp.md


def spoil(kind):
    """Problems whose third is hopeless, a start or None, and why."""
    X, x, T = problems()
    w, k, init = torch.ones(6, 10, dtype=F64), K.expand(6, 3, 3).clone(), None
    if kind == "nan under weight":
        X[2, 0, 0], why = torch.nan, Reason.NOT_FINITE
    elif kind == "nan in K":
        k[2, 0, 0], why = torch.nan, Reason.NOT_FINITE
    elif kind == "no camera":
        k[2], why = 0.0, Reason.NOT_FINITE
    elif kind == "nan in the start":
        init, why = T.clone(), Reason.NOT_FINITE
        init[2, 0, 3] = torch.nan
    elif kind == "no rigid start":
        init, why = T.clone(), Reason.NOT_FINITE
        init[2] *= 2
    elif kind == "three points":
        w[2, 3:], why = 0, Reason.TOO_FEW_POINTS
    elif kind == "three points repeated":
        index = torch.arange(10) % 3
        X[2], x[2], why = X[2, index], x[2, index], Reason.TOO_FEW_POINTS
    elif kind == "two points and a start":
        w[2, 2:], init, why = 0, T, Reason.TOO_FEW_POINTS
    elif kind == "no weight":
        w[2], why = 0, Reason.TOO_FEW_POINTS
    elif kind == "one point ten times":
        X[2], x[2], why = X[2, :1], x[2, :1], Reason.TOO_FEW_POINTS
    elif kind == "collinear":
        X[2, :, 1:], why = 0, Reason.DEGENERATE
        x[2] = camera.project(se3.transform(T[2], X[2]), K)
    elif kind == "nearly collinear":
        X[2, :, 1:], why = 1e-4 * X[2, :, 1:], Reason.DEGENERATE
        g = torch.Generator().manual_seed(0)
        x[2] = camera.project(se3.transform(T[2], X[2]), K) + 0.5 * torch.randn(10, 2, generator=g, dtype=F64)
    elif kind == "start behind":
        init, why = T.clone(), Reason.BEHIND_THE_CAMERA
        init[2, 2, 3] *= -1
    else:
        raise AssertionError(kind)
    return X, x, w, k, init, why


ROWS = ["nan under weight", "nan in K", "no camera", "nan in the start", "no rigid start", "three points",
        "three points repeated", "two points and a start", "no weight", "one point ten times", "collinear", "nearly collinear",
        "start behind"]  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_what_cannot_be_solved_fails_alone_and_says_why(kind, back_end):
    X, x, w, k, init, why = spoil(kind)
    inputs = [v.clone().requires_grad_() for v in (X, x, w)]
    found = pnp.solve_implicit(inputs[0], inputs[1], k, inputs[2], init=init)
    assert found.converged.tolist() == [i != 2 for i in range(6)]
    assert found.reason.tolist() == [why if i == 2 else Reason.CONVERGED for i in range(6)]
    assert all(torch.isfinite(v).all() for v in found[:3])
    for gradient in torch.autograd.grad(found.cam_from_obj.sum() + found.cost.sum(), inputs):
        assert (gradient[2] == 0).all()
        assert torch.isfinite(gradient).all()
        assert gradient[[0, 1, 3, 4, 5]].flatten(1).ne(0).any(1).all()


def test_a_point_without_weight_is_absent(back_end):
    X, x, _ = problems()
    w = torch.ones(6, 10, dtype=F64)
    w[:, 4] = 0
    X[:, 4] = torch.nan
    found, fewer = pnp.solve(X, x, K, w), pnp.solve(X[:, w[0] > 0], x[:, w[0] > 0], K)
    assert found.converged.all()
    torch.testing.assert_close(found.cam_from_obj, fewer.cam_from_obj, rtol=0, atol=1e-8)


def test_a_point_without_weight_may_lie_behind_the_camera(back_end):
    X, x, T = problems()
    w = torch.ones(6, 10, dtype=F64)
    X[:, 4] = se3.transform(se3.inverse(T), torch.tensor([0.0, 0.0, -1.0], dtype=F64).expand(6, 1, 3))[:, 0]
    one = torch.arange(10) == 4
    assert (pnp.solve(X, x, K, w * ~one, init=T).reason == Reason.CONVERGED).all()
    assert (pnp.solve(X, x, K, w * torch.where(one, 1e-9, 1.0), init=T).reason == Reason.BEHIND_THE_CAMERA).all()


def test_as_many_points_as_are_needed_are_enough(back_end):
    X, x, T = problems(noise=0.0)
    w = torch.zeros(6, 10, dtype=F64)
    w[:, :4] = 1
    assert (pnp.solve(X, x, K, w).reason == Reason.CONVERGED).all()
    w[:, 3] = 0
    assert (pnp.solve(X, x, K, w, init=T).reason == Reason.CONVERGED).all()


def test_what_is_open_has_a_large_finite_covariance(back_end):
    X, x, w, k, init, _ = spoil("collinear")
    covariance = pnp.solve(X, x, k, w, init=init).covariance
    assert torch.isfinite(covariance).all()
    assert covariance[2].diagonal().max() > 100 * covariance[[0, 1, 3, 4, 5]].max()


def test_coplanar_points_are_solved(back_end):
    X, _, T = problems(40)
    X[..., 2] = 0
    x = camera.project(se3.transform(T, X), K)
    found = pnp.solve(X, x, K)
    assert found.converged.all()
    torch.testing.assert_close(found.cam_from_obj, T, rtol=0, atol=1e-6)


def test_iterations_that_run_out_say_so(back_end):
    X, x, T = problems()
    init = se3.retract(T, torch.tensor([0.05, 0, 0.1, 0.3, 0.2, 0], dtype=F64).expand(6, 6))
    found = pnp.solve(X, x, K, init=init, iterations=1)
    assert found.reason.tolist() == [Reason.ITERATIONS] * 6


# --------------------------------------------------------------------------------------------------------------- verdicts


def test_more_iterations_never_lose_a_minimum():
    X, x, _ = problems(2000, 16, seed=3)
    flags = [pnp.solve(X.float(), x.float(), K.float(), iterations=i).converged for i in (12, 20, 29, 30, 31)]
    for before, after in itertools.pairwise(flags):
        assert not (before & ~after).any()
    assert flags[-1].all()


def test_planes_seen_from_the_front_arrive(back_end):
    X, _, T = problems(60, 12)
    X[..., 2] = 0
    T = se3.from_rt(EYE[:3, :3].expand(60, 3, 3), T[:, :3, 3])
    x = camera.project(se3.transform(T, X), K)
    x = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    found = pnp.solve(X, x, K)
    assert found.converged.all()
    inputs = x.clone().requires_grad_()
    pnp.solve_implicit(X, inputs, K).cam_from_obj.sum().backward()
    assert inputs.grad.flatten(1).ne(0).any(1).all()


def test_of_the_two_poses_of_a_plane_the_cheaper_one_is_found():
    from benchmarks.pnp_sweep import examine, kinds

    make = kinds()["plane, 6 points"]
    for seed in (4, 7):
        assert examine(make(torch.Generator().manual_seed(1000 * seed + 12), 500))["silent"] == 0


def test_covariance_has_no_prior():
    X, x, T = problems(4, 8)
    w = 1e-4 * torch.ones(8, dtype=F64)  # far below any fixed information that might be added
    found, plain = pnp.solve(X, x, K, w, init=T), pnp.solve(X, x, K, init=T)
    torch.testing.assert_close(found.covariance * 1e-8, plain.covariance, rtol=1e-6, atol=0)


def test_the_reason_is_the_shape_of_the_batch():
    X, x, _ = problems()
    found = pnp.solve(X.reshape(2, 3, 10, 3), x.reshape(2, 3, 10, 2), K)
    assert found.reason.shape == (2, 3)
    assert found.reason.dtype == torch.uint8
    assert torch.equal(found.converged, found.reason == Reason.CONVERGED)
    assert checks.Reason(int(found.reason[0, 0])) is Reason.CONVERGED


# -------------------------------------------------------------------------------------------------- poses of other doors


@QUICK
@given(st.integers(0, 1000), st.sampled_from([torch.float32, F64]), st.floats(-3, 3))
def test_losses_and_steps_take_poses_that_half_precision_rounded(seed, dtype, power):
    X, x, T = (v.to(dtype) for v in problems(4, seed=seed))
    given_ = prepare(X, x, K.to(dtype))
    rounded = T.clone()
    rounded[:, :3, :3] = T[:, :3, :3].bfloat16().to(dtype)
    made = se3.project(rounded)[0]
    torch.testing.assert_close(pnp.one_step(given_.problems, rounded), pnp.one_step(given_.problems, made))
    half = T.half()
    assert torch.equal(pnp.one_step(given_.problems, half), pnp.one_step(given_.problems, half.to(dtype)))
    for part, exact in zip(pnp.derivative_loss(rounded, T), pnp.derivative_loss(made, T)):
        torch.testing.assert_close(part, exact)
    scale = 10.0**power
    far = se3.from_rt(rounded[:, :3, :3], scale * T[:, :3, 3])
    eye = torch.eye(4, dtype=dtype).expand(4, 4, 4)
    torch.testing.assert_close(se3.inverse(far) @ se3.project(far)[0], eye, rtol=0, atol=1e-5 * max(scale, 1.0))
    torch.testing.assert_close(se3.exp(se3.log(far)), se3.project(far)[0], rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("kind", NOT)
def test_poses_that_are_none_have_no_step_and_no_loss_and_no_inverse(kind):
    X, x, T = problems(4)
    bad = T.clone()
    bad[1] = NOT[kind](T)[1]
    x.requires_grad_()
    stepped = pnp.one_step(prepare(X, x, K).problems, bad)
    torch.testing.assert_close(stepped[1], bad[1], equal_nan=True)
    alone = pnp.one_step(prepare(X, x, K).problems, T)
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(stepped[others], alone[others])
    stepped[:, :3, 3].nan_to_num(0.0, 0.0, 0.0).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[1] == 0).all()
    assert (x.grad[0] != 0).any()
    near = se3.retract(T, torch.full((6,), 0.01, dtype=F64))
    for first, second in ((bad, near), (near, bad)):
        first = first.clone().requires_grad_()
        loss = sum(pnp.derivative_loss(first, second))
        assert (loss[others] > 0).all()
        loss.sum().backward()
        assert loss[1] == 0
        assert torch.isfinite(first.grad).all()
    if torch.isfinite(bad).all():
        for function in (se3.inverse, se3.log):
            with pytest.raises(ValueError, match=r"expected rigid motions, got at \[1\]"):
                function(bad)
        for symmetries in (bad, bad[0], bad[:0]):
            with pytest.raises(ValueError, match="symmetries must be"):
                pnp.derivative_loss(T, T, symmetries=symmetries)


def test_what_layers_return_is_asked_for():
    X, x, T = problems()
    posterior = pnp.sample_posterior(X, x, K, samples=16)
    for call, message in (
        (lambda: pnp.monte_carlo_loss(pnp.solve(X, x, K), T), "must be what sample_posterior returns, got a Solution"),
        (lambda: pnp.monte_carlo_loss(posterior, T[:3]), r"broadcasts to \(6, 4, 4\), the problems', got \(3, 4, 4\)"),
        (lambda: pnp.one_step(posterior.prepared, T), "problems must be Problems"),
        (lambda: pnp.solve(X, x.to(torch.float8_e5m2), K), "points2d must hold real numbers .* got torch.float8_e5m2"),
        (lambda: pnp.solve(X, x.to("meta"), K), "points2d is on the device meta, which holds no numbers"),
        (lambda: pnp.ransac(X.to("meta"), x, K), "points3d is on the device meta, which holds no numbers"),
        (lambda: pnp.derivative_loss(T, T[:3]), "do not fit together"),
        (lambda: posterior.resample(0), "count must be an integer >= 1"),
        (lambda: posterior.resample(3, generator=0), "generator must be a torch.Generator"),
        (lambda: posterior.orientation_density(torch.zeros(2, 3, 3)), "must be rotation matrices, 2 of 2 are not"),
        (lambda: posterior.orientation_density(torch.eye(3)), r"must be \(R, 3, 3\)"),
        (lambda: pnp.warm_up(device="abacus"), "device must be one that torch knows"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    assert "K is no camera" in pnp.ransac(X[0], x[0], K.mT).reason
    rounded, exact = T[:1, :3, :3].bfloat16(), se3.project(se3.from_rt(T[:1, :3, :3].bfloat16().double(), T[:1, :3, 3]))[0]
    assert torch.equal(posterior.orientation_density(rounded), posterior.orientation_density(exact[:, :3, :3]))


def test_options_of_losses_are_checked():
    X, x, T = problems(4)
    flat = prepare(X, x, K).problems
    for arguments, message in (
        ((flat, T[:2]), r"cam_from_obj must be \(4, 4, 4\)"),
        ((flat, T[:, :3]), r"cam_from_obj must be \(\.\.\., 4, 4\)"),
        ((flat, T, 5), "dof must be 6"),
        ((flat, T, 6, -1.0), "damping must be a finite number >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            pnp.one_step(*arguments)
    for beta in (0, -1.0, math.nan, "1"):
        with pytest.raises(ValueError, match="beta must be a finite number > 0"):
            pnp.derivative_loss(T, T, beta=beta)


# ------------------------------------------------------------------------------------------------- verdicts, weights, kinds


@QUICK
@given(
    st.integers(0, 2**31), st.sampled_from([torch.float32, F64]), st.sampled_from([4, 6, 16]), st.booleans(), st.integers(3, 40)
)
def test_what_converged_is_a_minimum_and_stays_one(seed, dtype, n, flat, iterations):
    X, x, _ = problems(8, n, seed=seed)
    if flat:
        X[..., 2] = 0
    X, x, k = X.to(dtype), x.to(dtype), K.to(dtype)
    found, longer = pnp.solve(X, x, k, iterations=iterations), pnp.solve(X, x, k, iterations=iterations + 20)
    ok = found.converged
    assert (longer.converged | ~ok).all()
    assert (longer.cost <= found.cost * (1 + 1e-3) + 1e-6)[ok].all()
    again = pnp.solve(X, x, k, init=found.cam_from_obj)
    assert (again.cost >= found.cost * (1 - 1e-3) - 1e-4)[ok].all()


@QUICK
@given(st.integers(0, 2**31), st.sampled_from([6, 8, 30]), st.floats(0, 6))
def test_uneven_weights_find_the_minimum_that_the_truth_leads_to(seed, n, powers):
    g = torch.Generator().manual_seed(seed)
    X, x, T = problems(8, n, noise=0, seed=seed)
    w = 10 ** (powers * (torch.rand(8, n, 2, generator=g, dtype=F64) - 0.5))
    x = x + 0.3 * torch.randn(x.shape, generator=g, dtype=F64) / w.clamp_min(0.05)
    found, best = pnp.solve(X, x, K, w), pnp.solve(X, x, K, w, init=T, iterations=100)
    both = found.converged & best.converged
    assert (found.cost <= best.cost * (1 + 1e-3) + 1e-6)[both].all()


def test_heavy_weights_change_no_other_problem():
    X, x, _ = problems(6, 10)
    w = torch.ones(6, 10, dtype=F64)
    alone = pnp.solve(X, x, K, w)
    w[2, 0] = 1e6
    beside = pnp.solve(X, x, K, w)
    others = torch.tensor([0, 1, 3, 4, 5])
    assert beside.converged.all()
    assert torch.equal(beside.cam_from_obj[others], alone.cam_from_obj[others])


def test_covariance_in_single_precision_is_that_of_the_returned_pose():
    X, x, T = problems(200, 16)
    start = se3.perturbed(T, 0.2, 0.05)
    single = pnp.solve(X.float(), x.float(), K.float(), init=start.float())
    double = pnp.solve(X, x, K, init=start)
    same = single.converged & double.converged & (single.cam_from_obj - double.cam_from_obj).abs().flatten(1).amax(1).lt(1e-4)
    assert same.float().mean() > 0.9
    std = double.covariance.diagonal(dim1=1, dim2=2).sqrt()
    off = (single.covariance - double.covariance).abs() / std[:, :, None] / std[:, None, :]
    assert off[same].max() < 5e-3
