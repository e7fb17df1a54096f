"""Rotations: axioms by hypothesis, roma and scipy as oracles, gradients at nice and at ugly points."""

import math

import numpy as np
import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from monopose.geometry import rotation as so3

F64 = torch.float64
number = st.floats(-1, 1, allow_subnormal=False)
axis = st.tuples(number, number, number).filter(lambda v: np.linalg.norm(v) > 1e-3)
angle = st.one_of(st.floats(0, math.pi - 1e-6), st.sampled_from([0.0, 1e-12, 1e-8, 1e-5, 0.00999, 0.01001, math.pi - 1e-6]))


def omega(axis, angle):
    v = torch.tensor(axis, dtype=F64)
    return v / v.norm() * angle


@given(axis, angle)
def test_exp_is_a_rotation_and_log_its_inverse(axis, angle):
    w = omega(axis, angle)
    R = so3.so3_exp(w)
    torch.testing.assert_close(R @ R.T, torch.eye(3, dtype=F64), rtol=0, atol=1e-12)
    assert torch.linalg.det(R).item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(so3.so3_log(R), w, rtol=0, atol=1e-9)
    torch.testing.assert_close(R, torch.from_numpy(Rotation.from_rotvec(w.numpy()).as_matrix()), rtol=0, atol=1e-12)


@given(axis, angle)
def test_float32_is_as_good_as_float32_can_be(axis, angle):
    w = omega(axis, angle)
    R = so3.so3_exp(w.float())
    torch.testing.assert_close(R.double(), so3.so3_exp(w), rtol=0, atol=1e-6)
    back = so3.so3_exp(so3.so3_log(R))  # near pi the sign of the axis may flip, the rotation may not
    torch.testing.assert_close(back, R, rtol=0, atol=3e-6)


@given(axis, angle, axis, angle)
def test_angle_between_is_the_norm_of_the_log(a, s, b, t):
    A, B = so3.so3_exp(omega(a, s)), so3.so3_exp(omega(b, t))
    got = so3.angle_between(A, B)
    assert got.item() == pytest.approx(so3.so3_log(A.T @ B).norm().item(), abs=1e-7)
    assert got.item() == pytest.approx(so3.angle_between(B, A).item(), abs=1e-12)
    assert so3.angle_between(A, A).item() == pytest.approx(0, abs=1e-12)
    assert so3.angle_between(torch.eye(3, dtype=F64), A).item() == pytest.approx(s, abs=1e-9)


@pytest.mark.parametrize("v", [(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0.6, 0.0, 0.8), (-0.48, 0.6, 0.64)])
def test_half_turns(v):
    v = torch.tensor(v, dtype=F64)
    R = 2 * torch.outer(v, v) - torch.eye(3, dtype=F64)
    w = so3.so3_log(R)
    assert w.norm().item() == pytest.approx(math.pi)
    torch.testing.assert_close(so3.so3_exp(w), R, rtol=0, atol=1e-12)
    assert so3.angle_between(R, torch.eye(3, dtype=F64)).item() == pytest.approx(math.pi)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 0.5, 2.0, 3.1])
def test_gradients_of_exp_and_log(size):
    v = torch.tensor([[0.6, 0.0, 0.8], [-0.48, 0.6, 0.64], [0.0, -1.0, 0.0]], dtype=F64)
    w = (v * size).requires_grad_()
    assert gradcheck(so3.so3_exp, w)
    assert gradcheck(lambda u: so3.so3_log(so3.so3_exp(u)), w)
    # d log(exp(u)) / du is the identity
    J = torch.autograd.functional.jacobian(lambda u: so3.so3_log(so3.so3_exp(u)), w[0].detach())
    torch.testing.assert_close(J, torch.eye(3, dtype=F64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_gradient_of_log_at_half_a_turn_is_that_of_one_side(dtype):
    R = torch.diag(torch.tensor([1.0, -1, -1], dtype=dtype)).expand(2, 3, 3)
    turns = so3.skew(torch.eye(3, dtype=dtype)) @ R[0]  # of a small turn about each axis, before R
    J = torch.autograd.functional.jacobian(lambda R: so3.so3_log(R).sum(0), R)
    half = math.pi / 2
    expected = torch.tensor([[1.0, 0, 0], [0, 0, half], [0, -half, 0]], dtype=dtype)
    torch.testing.assert_close(torch.einsum("ibjk,ajk->bia", J, turns), expected.expand(2, 3, 3), rtol=1e-5, atol=1e-6)


def test_gradient_of_exp_at_zero_is_the_skew_matrix():
    J = torch.autograd.functional.jacobian(so3.so3_exp, torch.zeros(3))
    torch.testing.assert_close(J.permute(2, 0, 1), so3.skew(torch.eye(3)))


def test_skew_is_the_cross_product():
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close((so3.skew(a) @ b[..., None]).squeeze(-1), torch.linalg.cross(a, b))


def test_quaternions_are_those_of_roma_and_scipy():
    R = so3.random_rotations(500, torch.Generator().manual_seed(0), F64)
    R[:3] = torch.stack([torch.diag(torch.tensor(d, dtype=F64)) for d in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1])])
    q = so3.quat_wxyz_from_matrix(R)
    assert (q[:, 0] >= -1e-12).all()
    torch.testing.assert_close(q.norm(dim=1), torch.ones(500, dtype=F64))
    torch.testing.assert_close(so3.matrix_from_quat_wxyz(q), R, rtol=0, atol=1e-12)
    torch.testing.assert_close(roma.unitquat_to_rotmat(q[:, [1, 2, 3, 0]]), R, rtol=0, atol=1e-12)
    scipy = torch.from_numpy(Rotation.from_matrix(R.numpy()).as_quat()[:, [3, 0, 1, 2]])
    assert ((q * scipy).sum(1).abs() > 1 - 1e-12).all()
    torch.testing.assert_close(so3.matrix_from_quat_wxyz(-3 * q), R, rtol=0, atol=1e-12)  # any length, either sign
    torch.testing.assert_close(so3.so3_log(R)[3:], roma.rotmat_to_rotvec(R)[3:], rtol=0, atol=1e-9)


def test_six_d_is_that_of_roma_and_its_own_inverse():
    six = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    R = so3.matrix_from_6d(six)
    torch.testing.assert_close(R, roma.special_gramschmidt(torch.stack([six[:, :3], six[:, 3:]], -1)), rtol=0, atol=1e-12)
    torch.testing.assert_close(so3.matrix_from_6d(so3.six_d_from_matrix(R)), R)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(50, dtype=F64))
    assert gradcheck(so3.matrix_from_6d, six[:3].requires_grad_())
    ugly = torch.tensor([[1.0, 0, 0, 1.0, 1e-2, 0], [1e-2, 0, 0, 0, 1e3, 0]], dtype=F64, requires_grad=True)
    assert gradcheck(so3.matrix_from_6d, ugly, eps=1e-7, rtol=1e-3, atol=1e-3)


def test_nearest_rotation_is_that_of_roma_and_keeps_rotations():
    M = torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    R = so3.nearest_rotation(M)
    torch.testing.assert_close(R, roma.special_procrustes(M), rtol=0, atol=1e-9)
    torch.testing.assert_close(so3.nearest_rotation(R), R)


def test_random_rotations_are_uniform_and_repeat():
    R = so3.random_rotations(20000, torch.Generator().manual_seed(1), F64)
    assert torch.equal(R, so3.random_rotations(20000, torch.Generator().manual_seed(1), F64))
    assert R.mean(0).abs().max() < 0.03
    # the angle of a uniform rotation has the density (1 - cos) / pi: mean pi/2 + 2/pi
    assert so3.so3_log(R).norm(dim=1).mean().item() == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.02)


def test_empty_batches():
    assert so3.so3_log(so3.so3_exp(torch.zeros(0, 3))).shape == (0, 3)
    assert so3.random_rotations(0).shape == (0, 3, 3)
