"""The recurrent update and convex upsampling."""

import pytest
import torch
from torchvision.models.optical_flow._utils import upsample_flow

from monopose.objects import refiner_networks


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_one_hot_mask_copies_the_neighbour(factor):
    values = random(2, 3, 5, 6)
    mask = torch.full((2, 9, factor, factor, 5, 6), -1e4)
    mask[:, 4] = 0  # the middle one
    fine = refiner_networks.upsampled(values, mask.flatten(1, 3), factor)
    nearest = values.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(fine, nearest)
    mask = torch.full_like(mask, -1e4)
    mask[:, 5] = 0  # the one to the right
    fine = refiner_networks.upsampled(values, mask.flatten(1, 3), factor)
    right = torch.cat([values[..., 1:], values[..., -1:]], -1)  # beyond the border stands what is at the border
    torch.testing.assert_close(fine, right.repeat_interleave(factor, 2).repeat_interleave(factor, 3))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_constant_stays_constant_whatever_the_mask_up_to_the_border(factor):
    values = torch.tensor([2.0, -3.0])[None, :, None, None].expand(2, 2, 4, 7)
    fine = refiner_networks.upsampled(values, 5 * random(2, 9 * factor**2, 4, 7), factor)
    torch.testing.assert_close(fine, values[..., :1, :1].expand(2, 2, 4 * factor, 7 * factor))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_upsampling_is_that_of_torchvision_off_the_border(factor):
    """RAFT multiplies by the factor, since its field is in pixels, and takes zeros beyond the border."""
    values, mask = random(2, 2, 6, 7, seed=1), random(2, 9 * factor**2, 6, 7, seed=2)
    theirs = upsample_flow(values, mask, factor) / factor
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    torch.testing.assert_close(refiner_networks.upsampled(values, mask, factor)[inner], theirs[inner])


def test_the_gated_unit_in_closed_form():
    """With weights of zero the gates are those of the biases: h <- (1 - z) h + z tanh(b), twice."""
    cell = refiner_networks.SepConvGRU(4, 3)
    for parameter in cell.parameters():
        torch.nn.init.zeros_(parameter)
    for part in (cell.rows, cell.columns):
        torch.nn.init.constant_(part[0].bias, 1.0)
        torch.nn.init.constant_(part[2].bias, 0.5)
    hidden = random(2, 4, 5, 6)
    z, q = torch.sigmoid(torch.tensor(1.0)), torch.tanh(torch.tensor(0.5))
    expected = (1 - z) ** 2 * hidden + (1 - z) * z * q + z * q
    torch.testing.assert_close(cell(hidden, random(2, 3, 5, 6, seed=3)), expected)


def test_the_unit_sees_rows_and_columns():
    """First 5 along the row, then 5 along the column: together a square of 9 by 9 reaches one place, since the reset gate
    reads as far as the new state does, and nothing beyond it does."""
    torch.manual_seed(0)
    cell, inputs = refiner_networks.SepConvGRU(4, 3), random(1, 3, 15, 15).requires_grad_()
    cell(random(1, 4, 15, 15), inputs)[0, :, 7, 7].sum().backward()
    reached = (inputs.grad[0] != 0).any(0).nonzero()
    assert reached.min(0).values.tolist() >= [3, 3]
    assert reached.max(0).values.tolist() <= [11, 11]
    assert (reached == 7).all(1).any()
    assert ((reached[:, 0] != 7) & (reached[:, 1] != 7)).any()


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_an_untrained_step_moves_almost_nothing(factor):
    torch.manual_seed(0)
    block = refiner_networks.UpdateBlock(18, 2, hidden=12, context=8, motion=10, outputs=3, factor=factor)
    given = (
        random(2, 12, 6, 7).tanh(),
        random(2, 8, 6, 7).relu(),
        random(2, 18, 6, 7),
        3 * random(2, 2, 6, 7),
        random(2, 2, 6, 7),
    )
    hidden, said, mask = block(*given)
    assert hidden.shape == (2, 12, 6, 7)
    assert said.shape == (2, 5, 6, 7)
    assert mask.shape == (2, 9 * factor**2, 6, 7)
    assert float(said.detach().abs().max()) < 0.1  # cells
    assert float((mask.softmax(1) - 1 / mask.shape[1]).detach().abs().max()) < 0.02
    assert float((hidden - given[0]).detach().abs().max()) > 0.1  # the state does move


def test_every_input_reaches_state_change_and_mask():
    torch.manual_seed(0)
    block = refiner_networks.UpdateBlock(18, 2, hidden=12, context=8, motion=10, outputs=3, factor=2)
    for out in range(3):
        given = [random(1, c, 6, 7, seed=c).requires_grad_() for c in (12, 8, 18, 2, 4)]
        given[4] = random(1, 2, 6, 7, seed=9).requires_grad_()
        block(*given)[out].sum().backward()
        assert all(bool((v.grad != 0).any()) for v in given)
