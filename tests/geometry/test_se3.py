"""Rigid motions: group axioms, exp against log, allocentric against egocentric."""

import numpy as np
import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from torch.autograd import gradcheck

from monopose.geometry import rotation, se3

F64 = torch.float64
EYE = torch.eye(4, dtype=F64)
twist = st.lists(st.floats(-1.7, 1.7, allow_subnormal=False), min_size=6, max_size=6).map(lambda v: torch.tensor(v, dtype=F64))


@pytest.mark.slow
@given(twist, twist, twist)
def test_group_axioms(a, b, c):
    A, B, C = se3.exp(a), se3.exp(b), se3.exp(c)
    torch.testing.assert_close(A @ se3.inverse(A), EYE, rtol=0, atol=1e-12)
    torch.testing.assert_close(se3.inverse(A @ B), se3.inverse(B) @ se3.inverse(A), rtol=0, atol=1e-12)
    points = torch.tensor([[0.1, 0.2, 0.3], [-1.0, 0.0, 2.0]], dtype=F64)
    moved = se3.transform(A, se3.transform(B, se3.transform(C, points)))
    torch.testing.assert_close(se3.transform(A @ B @ C, points), moved, rtol=0, atol=1e-11)
    torch.testing.assert_close(se3.transform(se3.inverse(A), se3.transform(A, points)), points, rtol=0, atol=1e-12)


@given(twist)
def test_exp_is_the_matrix_exponential_and_log_its_inverse(x):
    hat = np.zeros((4, 4))
    hat[:3, :3], hat[:3, 3] = rotation.skew(x[3:]).numpy(), x[:3].numpy()
    T = se3.exp(x)
    torch.testing.assert_close(T, torch.from_numpy(expm(hat)), rtol=0, atol=1e-11)
    if x[3:].norm() < 3.1:
        torch.testing.assert_close(se3.log(T), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 0.00999, 0.01001, 1.0, 3.0])
def test_gradients(size):
    x = torch.tensor([[0.3, -0.2, 1.0, 0.6, 0.0, 0.8], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]], dtype=F64)
    x = torch.cat([x[:, :3], x[:, 3:] * size], 1).requires_grad_()
    assert gradcheck(se3.exp, x)
    assert gradcheck(lambda u: se3.log(se3.exp(u)), x)
    assert gradcheck(lambda u: se3.retract(EYE.expand(2, 4, 4), u), x)


def test_float32_exp_at_the_seam_of_the_series():
    for size in (9.9e-3, 1.01e-2, 3e-2):
        x = torch.tensor([1.0, -2.0, 0.5, 0.6 * size, 0.0, 0.8 * size], dtype=F64)
        torch.testing.assert_close(se3.exp(x.float()).double(), se3.exp(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(se3.log(se3.exp(x.float())).double(), x, rtol=0, atol=2e-5)


def test_retract_moves_rotation_and_translation_apart():
    T = se3.exp(torch.tensor([0.1, 0.2, 1.0, 0.3, -0.4, 0.5], dtype=F64))
    d = torch.tensor([0.01, 0.02, 0.03, 0.1, 0.2, -0.1], dtype=F64)
    out = se3.retract(T, d)
    torch.testing.assert_close(out[:3, 3], T[:3, 3] + d[:3])
    torch.testing.assert_close(out[:3, :3], rotation.so3_exp(d[3:]) @ T[:3, :3])
    torch.testing.assert_close(se3.retract(T, torch.zeros(6, dtype=F64)), T)


def test_batches_broadcast():
    R = rotation.random_rotations(6, torch.Generator().manual_seed(0)).reshape(2, 3, 3, 3)
    T = se3.from_rt(R, torch.tensor([1.0, 2.0, 3.0]))
    assert T.shape == (2, 3, 4, 4)
    assert (T[..., 3, :] == torch.tensor([0.0, 0, 0, 1])).all()
    assert se3.from_rt(R[0, 0], torch.zeros(5, 3)).shape == (5, 4, 4)
    assert se3.transform(T, torch.zeros(7, 3)).shape == (2, 3, 7, 3)
    assert se3.inverse(T[:0]).shape == (0, 3, 4, 4)


def poses(n=20):
    g = torch.Generator().manual_seed(2)
    t = torch.randn(n, 3, generator=g, dtype=F64)
    t[:, 2] = t[:, 2].abs() + 0.2
    return se3.from_rt(rotation.random_rotations(n, g, F64), t)


def test_allocentric_is_the_same_on_the_axis_and_goes_back():
    T = poses()
    torch.testing.assert_close(se3.egocentric_from_allocentric(se3.allocentric_from_egocentric(T)), T, rtol=0, atol=1e-12)
    T[:, :2, 3] = 0
    torch.testing.assert_close(se3.allocentric_from_egocentric(T), T, rtol=0, atol=1e-12)


def test_equal_looks_have_equal_allocentric_rotations():
    """Turning camera rays and object together by the shortest rotation changes the place in the image, not the look."""
    T = poses()
    looked = T.clone()
    looked[:, :3, 3] = 0
    looked[:, 2, 3] = T[:, :3, 3].norm(dim=1)  # the same object on the optical axis
    axis = torch.linalg.cross(looked[:, :3, 3], T[:, :3, 3])
    to_ray = roma.rotvec_to_rotmat(
        torch.nn.functional.normalize(axis, dim=1)
        * torch.atan2(axis.norm(dim=1), (looked[:, :3, 3] * T[:, :3, 3]).sum(1))[:, None]
    )
    moved = se3.from_rt(to_ray @ looked[:, :3, :3], T[:, :3, 3])
    got = se3.allocentric_from_egocentric(moved)[:, :3, :3]
    torch.testing.assert_close(got, looked[:, :3, :3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [(0.3, -0.2, 1.0), (0.0, 0.0, 1.0), (1e-9, 0.0, 0.5), (2.0, 1.0, 0.05)])
def test_gradients_of_allocentric(t):
    R = rotation.random_rotations(1, torch.Generator().manual_seed(0), F64)[0]
    t = torch.tensor(t, dtype=F64, requires_grad=True)
    assert gradcheck(lambda u: se3.allocentric_from_egocentric(se3.from_rt(R, u)), t)
    assert gradcheck(lambda u: se3.egocentric_from_allocentric(se3.from_rt(R, u)), t)


@pytest.mark.parametrize("function", [se3.inverse, se3.log])
def test_one_of_several_that_is_no_motion_is_refused(function):
    several = EYE.repeat(3, 1, 1)
    several[1, :3, :3] *= 2
    with pytest.raises(ValueError, match=r"expected rigid motions, got at \[1\]"):
        function(several)
    several[1] = torch.nan  # which stays
    assert torch.isnan(function(several)[1]).any()
    assert torch.isfinite(function(several)[[0, 2]]).all()
