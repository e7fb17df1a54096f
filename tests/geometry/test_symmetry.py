"""Symmetry groups in closed form, and the equivalent pose that is nearest."""

import math

import pytest
import torch

from monopose.geometry import rotation, se3, symmetry
from monopose.types import Symmetries

F64 = torch.float64
CORNERS = torch.tensor([[x, y, z] for x in (-0.1, 0.1) for y in (-0.05, 0.05) for z in (-0.02, 0.2)], dtype=F64)
Z = torch.tensor([[0.0, 0.0, 1.0]], dtype=F64)


def about(axis, angle, offset=(0.0, 0.0, 0.0)):
    R = rotation.so3_exp(torch.tensor(axis, dtype=F64) * angle)
    o = torch.tensor(offset, dtype=F64)
    return se3.from_rt(R, o - R @ o)


def pose(seed=0):
    g = torch.Generator().manual_seed(seed)
    return se3.from_rt(rotation.random_rotations(1, g, F64)[0], torch.tensor([0.1, 0.0, 0.8], dtype=F64))


def test_no_symmetry_is_the_identity():
    assert not Symmetries().any
    assert torch.equal(symmetry.transforms(Symmetries()), torch.eye(4)[None])


def test_discrete_motions_follow_the_identity():
    half = about((0.0, 1.0, 0.0), math.pi, (0.3, 0.0, 0.1))
    s = Symmetries(discrete=half[None], axes=torch.zeros(0, 3), offsets=torch.zeros(0, 3))
    assert s.any
    torch.testing.assert_close(symmetry.transforms(s), torch.stack([torch.eye(4, dtype=F64), half]))


@pytest.mark.parametrize("steps", [1, 4, 36, 315])
def test_axis_with_offset_turns_about_the_line(steps):
    offset = torch.tensor([[0.1, -0.2, 0.7]], dtype=F64)
    s = Symmetries(discrete=torch.zeros(0, 4, 4, dtype=F64), axes=2 * Z, offsets=offset)  # any length of axis
    group = symmetry.transforms(s, steps)
    assert group.shape == (steps, 4, 4)
    torch.testing.assert_close(group[0], torch.eye(4, dtype=F64))
    for k in range(steps):
        torch.testing.assert_close(
            group[k], about((0.0, 0.0, 1.0), 2 * math.pi * k / steps, offset[0].tolist()), rtol=0, atol=1e-12
        )
    on_line = offset + torch.tensor([[0.0, 0, -1], [0, 0, 0], [0, 0, 5]], dtype=F64)
    torch.testing.assert_close(se3.transform(group, on_line), on_line.expand(steps, 3, 3), rtol=0, atol=1e-12)


def test_axis_and_flip_make_a_group():
    flip = about((1.0, 0.0, 0.0), math.pi)
    s = Symmetries(discrete=flip[None], axes=Z, offsets=torch.zeros(1, 3, dtype=F64))
    group = symmetry.transforms(s, 8)
    assert group.shape == (16, 4, 4)
    torch.testing.assert_close(group[0], torch.eye(4, dtype=F64))
    products = (group[:, None] @ group[None]).reshape(-1, 1, 16)
    gap = (products - group.reshape(1, 16, 16)).abs().amax(-1).amin(1)
    assert (gap < 1e-9).all()  # closed


def test_default_step_is_that_of_bop():
    s = Symmetries(discrete=torch.zeros(0, 4, 4), axes=Z.float(), offsets=torch.zeros(1, 3))
    assert len(symmetry.transforms(s)) == math.ceil(math.pi / 0.01) == 315


def test_float32_group_is_made_of_rotations():
    s = Symmetries(axes=torch.tensor([[1.0, 2.0, -1.0]]), offsets=torch.tensor([[0.1, 0.0, 0.0]]))
    R = symmetry.transforms(s)[:, :3, :3]
    assert R.dtype == torch.float32
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(315, 3, 3), rtol=0, atol=1e-6)


def sphere(steps=24):
    axes = torch.tensor([[0.0, 0, 1], [1.0, 0, 0]], dtype=F64)
    s = Symmetries(discrete=torch.zeros(0, 4, 4, dtype=F64), axes=axes, offsets=torch.zeros(2, 3, dtype=F64))
    return symmetry.transforms(s, steps)


def test_two_axes_list_turns_about_each():
    group = sphere()
    assert len(group) == 48
    torch.testing.assert_close(group[6], about((0.0, 0.0, 1.0), math.pi / 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(group[24 + 6], about((1.0, 0.0, 0.0), math.pi / 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", [0, 3, 7])
def test_nearest_finds_the_motion_that_was_applied(which):
    s = Symmetries(discrete=torch.zeros(0, 4, 4, dtype=F64), axes=Z, offsets=torch.tensor([[0.02, 0.0, 0.0]], dtype=F64))
    group = symmetry.transforms(s, 12)
    reference = pose()
    seen = reference @ se3.inverse(group[which])  # looks the same as the reference
    torch.testing.assert_close(symmetry.nearest(seen, reference, group, CORNERS), reference, rtol=0, atol=1e-12)


def test_nearest_is_the_best_of_all_and_batches():
    group = sphere()
    a, b = torch.stack([pose(i) for i in range(6)]).reshape(2, 3, 4, 4), pose(9)
    got = symmetry.nearest(a, b, group, CORNERS)
    assert got.shape == (2, 3, 4, 4)

    def distance(T):
        return (se3.transform(T, CORNERS) - se3.transform(b, CORNERS)).square().sum(-1).mean(-1)

    for i in range(2):
        for j in range(3):
            every = distance(a[i, j] @ group)
            assert distance(got[i, j]).item() == pytest.approx(every.min().item(), abs=1e-15)
    alone = symmetry.nearest(a, b, torch.eye(4, dtype=F64)[None], CORNERS)
    torch.testing.assert_close(alone, a)
