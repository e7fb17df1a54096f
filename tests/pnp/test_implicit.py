"""The gradient of the optimal pose: against the solver itself, at ugly points, and exactly zero where there is none."""

import pytest
import torch

from monopose import Camera, pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import AdaptiveHuber, Cauchy, Huber, curvature, implicit, residuals
from monopose.pnp.kernels import implicit_cpu
from monopose.pnp.prepare import prepare
from monopose.pnp.solve import free_entries

F64 = torch.float64
K = torch.tensor([[572.4, 0.7, 325.3], [0.1, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=F64)
ROBUST = [None, Huber(3.0), AdaptiveHuber(0.1), Cauchy(6.0)]


def problems(batch=3, n=12, noise=1.0, seed=0, case="nice"):
    """X, x, w, T: objects of 0.2 to 0.3 m at 0.5 to 1 m, pixels with Gaussian noise, uneven weights."""
    g = torch.Generator().manual_seed(seed)
    X = 0.3 * (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5)
    R = rotation.random_rotations(batch, g, F64)
    if case == "planar":
        X[..., 2] = 0
    elif case == "no rotation":
        R = torch.eye(3, dtype=F64).expand(batch, 3, 3)
    elif case == "half a turn":
        R = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=F64)).expand(batch, 3, 3)
    z = 0.5 + 0.5 * torch.rand(batch, 1, generator=g, dtype=F64)
    t = torch.cat([(torch.rand(batch, 2, generator=g, dtype=F64) - 0.5) * 0.4 * z, z], -1)
    T = se3.from_rt(R, t)
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(batch, n, 2, generator=g, dtype=F64)
    w = 0.5 + torch.rand(batch, n, 2, generator=g, dtype=F64)
    if case == "some zero weights":
        w[:, 5:] = 0
        w[:, 0, 1] = 0
    return X, x, w, T


def settled(X, x, k, w, start, robust=None, dof=6, rounds=60):
    """The solver's own fixed point: restarted where it stopped, until the pose has no digits left to change."""
    for _ in range(rounds):
        found = pnp.solve(X, x, k, w, init=start, dof=dof, robust=robust, trust_region=False, iterations=1)
        change = (found.cam_from_obj - start).abs().amax() if found.converged.numel() else 0
        start = found.cam_from_obj
        if change < 1e-15:
            break
    return start


def settled_implicit(X, x, k, w, start, robust=None, dof=6):
    """`solve_implicit` from that fixed point."""
    start = settled(*(v.detach() for v in (X, x, k, w)), start, robust, dof)
    found = pnp.solve_implicit(X, x, k, w, init=start, dof=dof, robust=robust, trust_region=False)
    assert found.converged.all()
    return found


def by_differences(loss, inputs, h):
    """Central differences of fourth order of loss(*inputs of many problems) -> (many,) by every entry of every input."""
    found = []
    for i, value in enumerate(inputs):
        steps = torch.eye(value.numel(), dtype=F64).reshape(-1, *value.shape) * h[i]
        moved = torch.cat([value + k * steps for k in (-2, -1, 1, 2)])
        many = [moved if i == j else v.expand(len(moved), *v.shape) for j, v in enumerate(inputs)]
        a, b, c, d = loss(*many).reshape(4, -1)
        found.append(((a - d + 8 * (c - b)) / (12 * h[i])).reshape(value.shape))
    return found


def implicit_by_autograd(objective, inputs, pose, upstream, gauss_newton=False):
    """The theorem in its barest form, for any objective(pose, *inputs) of one problem that is 1/2 sum of squared residuals."""
    inputs = [v.detach().requires_grad_() for v in inputs]

    def residual(y):
        return objective(se3.retract(pose, y), *inputs)

    y = torch.zeros(6, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(0.5 * residual(y).square().sum(), y, create_graph=True)
    if gauss_newton:
        J = torch.autograd.functional.jacobian(residual, y).flatten(0, -2)
        H = J.mT @ J
    else:
        H = torch.stack([torch.autograd.grad(g, y, retain_graph=True)[0] for g in gradient])
    along = torch.autograd.functional.jacobian(lambda y: se3.retract(pose, y), torch.zeros(6, dtype=F64))
    v = -torch.linalg.solve(H, (along * upstream[..., None]).sum((0, 1)))
    return torch.autograd.grad((gradient * v).sum(), inputs)


def error(got, expected):
    return float((got - expected).norm() / expected.norm())


NAMES = ["points3d", "points2d", "weights", "K"]
STEPS = [1e-4, 0.03, 1e-3, 0.03]  # metres, pixels, 1, pixels


@pytest.mark.parametrize("noise", [1.0, 8.0])
@pytest.mark.parametrize("dof", [6, 4])
def test_gradient_is_that_of_the_whole_solver(dof, noise):
    X, x, w, T = (v[0] for v in problems(noise=noise, case="nice" if dof == 6 else "no rotation"))
    g = torch.Generator().manual_seed(7)
    upstream = torch.randn(4, 4, generator=g, dtype=F64)
    inputs = [v.requires_grad_() for v in (X, x, w, K.clone())]
    here = settled_implicit(X, x, inputs[3], w, T, dof=dof)
    got = torch.autograd.grad((here.cam_from_obj * upstream).sum(), inputs)
    plain = [v.detach() for v in inputs]

    def loss(X, x, w, k):
        return (settled(X, x, k, w, here.cam_from_obj.detach(), dof=dof) * upstream).sum((1, 2))

    expected = by_differences(loss, plain, STEPS)
    for name, a, b in zip(NAMES, got, expected):
        rows = slice(2) if name == "K" else ...  # a camera has (0, 0, 1) in its third row
        assert error(a[rows], b[rows]) < 1e-6, name

    if dof == 6:

        def pixels(pose, X, x, w, k):
            return w * (camera.project(se3.transform(pose, X), k) - x)

        def scaled_by_depth(pose, X, x, w, k):  # the residual of BPnP's code
            moved = se3.transform(pose, X)
            return w * (moved @ k.mT - moved[:, 2:] * torch.cat([x, torch.ones_like(x[:, :1])], -1))[:, :2]

        pose = here.cam_from_obj.detach()
        theorem = implicit_by_autograd(pixels, plain, pose, upstream)
        gauss_newton = implicit_by_autograd(pixels, plain, pose, upstream, gauss_newton=True)
        by_depth = implicit_by_autograd(scaled_by_depth, plain, pose, upstream)
        assert all(error(a, b) < 1e-9 for a, b in zip(got[:3], theorem))
        # what others do would not pass
        assert all(error(a, b) > (1e-3 if noise == 1 else 1e-2) for a, b in zip(gauss_newton[:3], expected))
        assert all(error(a, b) > 1e-2 for a, b in zip(by_depth[:3], expected))


@pytest.mark.parametrize("robust", ROBUST[1:])
def test_gradient_is_that_of_the_whole_robust_solver(robust):
    X, x, w, T = (v[1] for v in problems(noise=2.0))
    x[:2] += torch.tensor([60.0, -45.0])
    upstream = torch.randn(4, 4, generator=torch.Generator().manual_seed(7), dtype=F64)
    inputs = [v.requires_grad_() for v in (X, x, w, K.clone())]
    delta = None
    if not isinstance(robust, AdaptiveHuber):
        delta = torch.tensor(robust.delta, dtype=F64, requires_grad=True)
        inputs.append(delta)

    def kernel(delta):
        return robust if delta is None else type(robust)(delta)

    start = settled(*(v.detach() for v in (X, x, inputs[3], w)), T, kernel(delta), rounds=400)
    here = settled_implicit(X, x, inputs[3], w, start, kernel(delta))
    got = torch.autograd.grad((here.cam_from_obj * upstream).sum(), inputs)

    def loss(X, x, w, k, delta=None):
        return (settled(X, x, k, w, start, kernel(delta), rounds=400) * upstream).sum((1, 2))

    expected = by_differences(loss, [v.detach() for v in inputs], [*STEPS, 1e-3])
    for name, a, b in zip([*NAMES, "delta"], got, expected):
        if name == "points2d" and delta is None:
            continue  # the threshold's gradient goes through the weights only
        rows = slice(2) if name == "K" else ...
        assert error(a[rows], b[rows]) < 1e-6, name


CASES = [
    "nice",
    "planar",
    "no rotation",
    "half a turn",
    "four points",
    "some zero weights",
    "yaw only",
    "one pixel of one point",
]


@pytest.mark.parametrize(
    "case, robust",
    [
        *((case, None) for case in CASES),
        *((case, Huber(1.0)) for case in CASES[:5]),
        *((case, Cauchy(3.0)) for case in CASES[5:]),
    ],
)
def test_gradcheck_once_and_twice(case, robust):
    dof = 4 if case == "yaw only" else 6
    X, x, w, T = problems(1, 4 if case == "four points" else 6, case="no rotation" if dof == 4 else case, seed=2)
    if case == "one pixel of one point":
        w[:, 0, 0] = 0
    if case == "some zero weights":
        w[:, :5] += 0.1  # five points remain
    there = (w != 0).any(-1, keepdim=True)

    def function(X, x, w, top):
        found = settled_implicit(X, x, torch.cat([top, K[2:]]), w, T, robust, dof)
        return found.cam_from_obj[:, :3], found.cost

    def of_points_that_are_there(X, x, w, top):  # a point of weight 0 is absent: its second derivative is not that of a weight
        return function(X, x, w * there, top)

    inputs = [v.requires_grad_() for v in (X, x, w, K[:2].clone())]
    assert torch.autograd.gradcheck(function, inputs, eps=1e-5, atol=1e-5, rtol=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(of_points_that_are_there, inputs, eps=1e-5, atol=1e-4, rtol=1e-4, fast_mode=True)


def clamped(robust, bounded, dtype=F64):
    """Three problems with points behind z_min, outside the bounds and without weight, at poses that are no minima."""
    g = torch.Generator().manual_seed(0)
    X, _, w, T = problems(3, 21)
    T[2, 2, 3] = 0.12
    x = residuals.projections(prepare(X, torch.zeros(3, 21, 2), K).problems, T)[0].clamp(-1000, 2000)
    x = x + 5 * torch.randn(3, 21, 2, generator=g, dtype=F64)
    w[:, ::4] = 0
    bounds = torch.tensor([200.0, 150.0, 420.0, 330.0], dtype=F64) if bounded else None
    pose = se3.retract(T, 0.02 * torch.randn(3, 6, generator=g, dtype=F64))
    given = prepare(X.to(dtype), x.to(dtype), K.to(dtype), w.to(dtype), robust, bounds, z_min=0.05).problems
    depth = residuals.projections(given, pose.to(dtype))[1]
    assert (depth < 0.05).any()
    return given, pose.to(dtype)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("robust", ROBUST)
def test_hessian_and_slope_are_those_of_autograd(robust, bounded):
    given, pose = clamped(robust, bounded)

    def total(y):
        return residuals.cost(given, se3.retract(pose, y)).sum()

    y = torch.zeros(3, 6, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(total(y), y)
    expected = torch.autograd.functional.hessian(total, y.detach())[range(3), :, range(3)]
    scale = expected.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(curvature.hessian(given, pose) / scale, expected / scale, rtol=0, atol=1e-12)
    torch.testing.assert_close(implicit_cpu.hessian(given, pose) / scale, expected / scale, rtol=0, atol=1e-12)
    direction = torch.randn(3, 6, generator=torch.Generator().manual_seed(3), dtype=F64)
    torch.testing.assert_close(curvature.slope(given, pose, direction), (gradient * direction).sum(1), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("robust", ROBUST)
def test_fused_gradients_are_those_of_autograd(robust, bounded, dtype):
    given, pose = clamped(robust, bounded, dtype)
    direction = torch.randn(3, 6, generator=torch.Generator().manual_seed(3), dtype=F64)
    got = implicit_cpu.slope_gradients(given, pose, direction)
    exact = given.map(lambda v: v.double().requires_grad_())
    total = curvature.slope(exact, pose.double(), direction).sum()
    expected = torch.autograd.grad(total, exact[:5], allow_unused=True, materialize_grads=True)
    digits = 1e-12 if dtype == F64 else 1e-6
    for a, b in zip(got, expected):
        assert a.dtype == dtype
        scale = b.abs().amax().clamp_min(1e-30)
        torch.testing.assert_close(a.double() / scale, b / scale, rtol=0, atol=digits)


@pytest.mark.parametrize("dof", [6, 4])
@pytest.mark.parametrize("robust", ROBUST)
def test_both_backward_passes_agree(robust, dof):
    X, x, w, T = problems(5, 12, noise=2.0, case="no rotation" if dof == 4 else "nice")
    inputs = [v.requires_grad_() for v in (X, x, w, K.clone())]
    found = pnp.solve_implicit(X, x, inputs[3], w, init=T, robust=robust, dof=dof, iterations=100)
    assert found.converged.all()
    loss = (found.cam_from_obj * torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)).sum()
    fused = torch.autograd.grad(loss, inputs, retain_graph=True)
    plain = torch.autograd.grad(loss, inputs, create_graph=True)
    for a, b in zip(fused, plain):
        assert a.norm() > 0
        assert b.requires_grad
        torch.testing.assert_close(a, b.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("robust", ROBUST)
def test_what_leaves_the_pose_alone_has_no_gradient(robust):
    """Four motions of all inputs whose effect on the pose is known in closed form."""
    X, x, w, T = problems(4, 12, noise=3.0)
    k, delta = K.expand(4, 3, 3).clone(), None
    if isinstance(robust, (Huber, Cauchy)):
        delta = torch.full((4,), robust.delta, dtype=F64, requires_grad=True)
        robust = type(robust)(delta)
    inputs = [v.requires_grad_() for v in (X, x, w, k)]
    found = pnp.solve_implicit(X, x, k, w, init=T, robust=robust, iterations=200)
    assert found.converged.all()
    upstream = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    pose = found.cam_from_obj
    dX, dx, dw, dK, *rest = torch.autograd.grad((pose * upstream).sum(), [*inputs, *([delta] if delta is not None else [])])
    scaled = (w * dw).sum((1, 2)) + (delta * rest[0] if rest else 0)
    size = (w * dw).abs().sum((1, 2))
    assert (scaled.abs() < 1e-5 * size).all()  # weights (and threshold) times two
    shift = dx.sum(1) + dK[:, :2, 2]
    if delta is not None or robust is None:  # the adaptive threshold holds the spread of the pixels
        assert (shift.abs() < 1e-5 * dx.abs().sum(1)).all()  # an image and its principal point moved together
    larger = (X * dX).sum((1, 2)) - (pose[:, :3, 3] * upstream[:, :3, 3]).sum(1)
    assert (larger.abs() < 1e-5 * (X * dX).abs().sum((1, 2))).all()  # an object twice as large, twice as far away
    assert ((k * dK).sum((1, 2)).abs() < 1e-5 * (k * dK).abs().sum((1, 2))).all()  # homogeneous coordinates times two


def test_cost_has_the_gradient_of_the_cost_at_a_constant_pose():
    X, x, w, T = problems(3, noise=2.0)
    x.requires_grad_()
    found = pnp.solve_implicit(X, x, K, w, init=T)
    (got,) = torch.autograd.grad(found.cost.sum(), x)
    pixels = camera.project(se3.transform(found.cam_from_obj.detach(), X), K)
    torch.testing.assert_close(got, w.square() * (x - pixels).detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.cost, pnp.solve(X, x, K, w, init=T).cost)


def spoil(kind, X, x, w):
    """Make the third problem hopeless."""
    if kind == "nan point":
        X[2, 1, 1] = torch.nan
    elif kind == "inf pixel":
        x[2, 1, 1] = torch.inf
    elif kind == "nan weight":
        w[2, 1, 1] = torch.nan
    elif kind == "zero weights":
        w[2] = 0
    elif kind == "two points":
        w[2, 2:] = 0
    elif kind == "same point":
        X[2], x[2] = X[2, :1].clone(), x[2, :1].clone()
    elif kind == "collinear":
        X[2, :, 1:] = 0
    elif kind == "all at zero":
        X[2] = 0
    elif kind == "huge":
        X[2] = 1e200
    elif kind == "huge pixels":
        x[2] = 1e300


KINDS = ["nan point", "inf pixel", "nan weight", "zero weights", "two points", "same point", "collinear", "all at zero", "huge",
         "huge pixels"]  # fmt: skip


@pytest.mark.parametrize("robust", ROBUST)
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_problem_has_a_gradient_of_zero_and_touches_no_other(kind, robust):
    X, x, w, T = problems(4, 12)
    spoil(kind, X, x, w)
    upstream = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    good = [0, 1, 3]

    def gradients(rows, again):
        inputs = [v.detach().clone().requires_grad_() for v in (X[rows], x[rows], w[rows], K.expand(4, 3, 3)[rows])]
        found = pnp.solve_implicit(*inputs[:2], inputs[3], inputs[2], init=T[rows], robust=robust, iterations=100)
        loss = (found.cam_from_obj * upstream[rows]).sum((1, 2)) + found.cost
        first = torch.autograd.grad(loss.sum(), inputs, create_graph=again)
        if not again:
            return found.converged, first
        return found.converged, torch.autograd.grad(sum(v.square().sum() for v in first), inputs)

    for again, digits in ((False, 1e-6), (True, 1e-4)):
        converged, got = gradients([0, 1, 2, 3], again)
        assert converged.tolist() == [True, True, False, True]
        _, clean = gradients(good, again)
        for a, b in zip(got, clean):
            assert (a[2] == 0).all()
            assert (b.flatten(1).norm(dim=1) > 0).all()
            torch.testing.assert_close(a[good], b, rtol=digits, atol=digits * float(b.abs().max()))


def test_a_loss_that_is_nan_at_a_failed_problem_does_no_harm():
    X, x, w, T = problems(3)
    X[1] = 0
    X.requires_grad_()
    found = pnp.solve_implicit(X, x, K, w, init=T)
    loss = (found.cam_from_obj.sum((1, 2)) * torch.tensor([1.0, torch.nan, 1.0])).sum()
    for again in (False, True):
        (got,) = torch.autograd.grad(loss, X, create_graph=again, retain_graph=True)
        assert (got[1] == 0).all()
        assert torch.isfinite(got).all()
        assert (got[[0, 2]].norm(dim=(1, 2)) > 0).all()


def test_a_saddle_has_a_gradient_of_zero():
    X, x, w, T = problems(2)
    X.requires_grad_()
    given = prepare(X, x, K, w, Cauchy(0.01)).problems  # all residuals lie where Cauchy's cost is concave
    assert torch.linalg.eigvalsh(curvature.hessian(given, T))[:, 0].amax() < 0
    pose = implicit.attach(given, T, torch.tensor([True, True]))
    for again in (False, True):
        (got,) = torch.autograd.grad(pose.sum(), X, create_graph=again, retain_graph=True)
        assert (got == 0).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_points_have_finite_gradients(n):
    X, x, w, T = problems(2, n, noise=0.0)
    inputs = [v.requires_grad_() for v in (X, x, w, K.clone())]
    found = pnp.solve_implicit(X, x, inputs[3], w, init=T)
    got = torch.autograd.grad(found.cam_from_obj.sum() + found.cost.sum(), inputs)
    assert all(torch.isfinite(v).all() for v in got)
    assert all((v == 0).all() for v in got) == (n < 3)  # three points and a start fix a pose


def test_iterations_that_run_out_have_no_gradient():
    X, x, w, T = problems(2)
    X.requires_grad_()
    start = se3.retract(T, torch.full((6,), 0.1, dtype=F64))
    found = pnp.solve_implicit(X, x, K, w, init=start, iterations=1)
    assert not found.converged.any()
    (got,) = torch.autograd.grad(found.cam_from_obj.sum() + found.cost.sum(), X)
    assert (got == 0).all()


def test_an_empty_batch_has_an_empty_gradient():
    X = torch.zeros(0, 5, 3, dtype=F64, requires_grad=True)
    k = K.clone().requires_grad_()
    found = pnp.solve_implicit(X, torch.zeros(0, 5, 2, dtype=F64), k)
    dX, dK = torch.autograd.grad(found.cam_from_obj.sum() + found.cost.sum(), [X, k])
    assert dX.shape == X.shape
    assert (dK == 0).all()


def test_results_are_those_of_solve_and_only_pose_and_cost_carry_gradients():
    X, x, w, T = problems(6, noise=2.0)
    arguments = {"weights": w.reshape(2, 3, -1, 2), "init": T.reshape(2, 3, 4, 4).requires_grad_(), "robust": Huber(2.0)}
    X, x = X.reshape(2, 3, -1, 3).requires_grad_(), x.reshape(2, 3, -1, 2)
    plain, found = pnp.solve(X, x, K, **arguments), pnp.solve_implicit(X, x, K, **arguments)
    for a, b in zip(plain, found):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=0)
    assert [v.requires_grad for v in found] == [True, False, True, False, False]
    assert torch.autograd.grad(found.cam_from_obj.sum(), arguments["init"], allow_unused=True, retain_graph=True) == (None,)
    with torch.no_grad():
        assert not pnp.solve_implicit(X, x, K, **arguments).cam_from_obj.requires_grad
    assert not pnp.solve_implicit(X.detach(), x, K, **arguments).cost.requires_grad


def test_gradients_reach_what_was_broadcast_and_the_camera():
    X, x, w, T = problems(3)
    one, k = w[0, :, 0].clone().requires_grad_(), K.clone().requires_grad_()
    found = pnp.solve_implicit(X, x, Camera(k, (480, 640)), one, init=T)
    got = torch.autograd.grad(found.cam_from_obj.sum(), [one, k])
    many, ks = one.detach().expand(3, -1).clone().requires_grad_(), K.expand(3, 3, 3).clone().requires_grad_()
    found = pnp.solve_implicit(X, x, ks, many, init=T)
    expected = torch.autograd.grad(found.cam_from_obj.sum(), [many, ks])
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b.sum(0))


def test_float32_gradients_come_close_and_stay_float32():
    X, x, w, T = problems(8, 24)

    def gradients(dtype):
        inputs = [v.to(dtype).requires_grad_() for v in (X, x, w, K.clone())]
        found = pnp.solve_implicit(*inputs[:2], inputs[3], inputs[2], init=T.to(dtype), robust=Huber(2.0))
        return torch.autograd.grad(found.cam_from_obj.sum(), inputs)

    for a, b in zip(gradients(torch.float32), gradients(F64)):
        assert a.dtype == torch.float32
        assert error(a.double(), b) < 1e-4


def test_attach_is_the_identity_and_leaves_the_pose_without_gradient():
    X, x, w, T = problems(2)
    X.requires_grad_()
    T.requires_grad_()
    given = prepare(X, x, K, w).problems
    pose = implicit.attach(given, T, torch.ones(2, dtype=torch.bool))
    assert torch.equal(pose, T)
    assert torch.autograd.grad(pose.sum(), T, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(pose.sum(), X)[0].norm() > 0
    assert free_entries(4, T.device).tolist() == [0, 1, 2, 4]  # what dof=4 differentiates


def test_wrong_arguments_are_refused_as_by_solve():
    with pytest.raises(ValueError, match=r"dof must be 6 .* or 4 .*, got 5"):
        pnp.solve_implicit(torch.zeros(5, 3), torch.zeros(5, 2), K, dof=5)
    with pytest.raises(ValueError, match=r"points3d must be \(\.\.\., N, 3\)"):
        pnp.solve_implicit(torch.zeros(3, 5), torch.zeros(5, 2), K)
