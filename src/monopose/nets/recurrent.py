"""The recurrent part of flow networks: a convolutional GRU that corrects a flow field step by step, and sharp upsampling.

Source: Teed and Deng, RAFT (ECCV 2020), sec. 3.3; widths are free here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SepConvGRU(nn.Module):
    """A gated recurrent unit on images, first along rows, then along columns: twice 5 weights instead of 25."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        both = hidden + inputs
        self.rows = nn.ModuleList([nn.Conv2d(both, hidden, (1, 5), padding=(0, 2)) for _ in range(3)])
        self.columns = nn.ModuleList([nn.Conv2d(both, hidden, (5, 1), padding=(2, 0)) for _ in range(3)])

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """(B, hidden, h, w), (B, inputs, h, w) -> (B, hidden, h, w)."""
        for update, reset, new in (self.rows, self.columns):  # type: ignore[misc]
            both = torch.cat([hidden, inputs], 1)
            z = torch.sigmoid(update(both))
            q = torch.tanh(new(torch.cat([torch.sigmoid(reset(both)) * hidden, inputs], 1)))
            hidden = (1 - z) * hidden + z * q
        return hidden


class UpdateBlock(nn.Module):
    """One step: what correlates around the present flow -> new hidden state -> change of the flow, and whatever else is asked.

    Args:
        correlations: channels of the look-up.
        extra: channels of other evidence.
        hidden: channels of the state.
        context: channels that do not change between steps.
        motion: channels that the evidence is reduced to.
        outputs: channels asked for besides the two of the flow.
        factor: how many times finer the flow will be upsampled.
    """

    def __init__(
        self, correlations: int, extra: int, hidden: int, context: int, motion: int, outputs: int, factor: int
    ) -> None:
        super().__init__()
        self.factor = factor
        self.look = nn.Sequential(nn.Conv2d(correlations, 2 * motion, 1), nn.ReLU(inplace=True))
        self.flow = nn.Sequential(nn.Conv2d(2 + extra, motion, 7, padding=3), nn.ReLU(inplace=True))
        self.join = nn.Sequential(nn.Conv2d(3 * motion, motion, 3, padding=1), nn.ReLU(inplace=True))
        self.gru = SepConvGRU(hidden, context + motion + 2)
        self.head = nn.Sequential(nn.Conv2d(hidden, 2 * hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.change = nn.Conv2d(2 * hidden, 2 + outputs, 3, padding=1)
        self.mask = nn.Conv2d(2 * hidden, 9 * factor**2, 1)
        for layer in (self.change, self.mask):  # before training: no motion, even weights, plain upsampling
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, hidden: Tensor, context: Tensor, correlations: Tensor, flow: Tensor, extra: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden (B, hidden, h, w), context, correlations, flow (B, 2, h, w), extra evidence -> new hidden state;
        change of the flow and other outputs, (B, 2 + outputs, h, w); upsampling mask (B, 9 factor^2, h, w)."""
        motion = self.join(torch.cat([self.look(correlations), self.flow(torch.cat([flow, extra], 1))], 1))
        hidden = self.gru(hidden, torch.cat([context, motion, flow], 1))
        head = self.head(hidden)
        return hidden, self.change(head), self.mask(head)


def upsampled(values: Tensor, mask: Tensor, factor: int) -> Tensor:
    """Each fine pixel is a weighted mean of the 3 x 3 coarse ones around it, by learned weights that sum to 1.

    (B, C, h, w), (B, 9 factor^2, h, w) logits -> (B, C, factor h, factor w). Source: RAFT, sec. 3.3 (convex upsampling).
    """
    size, channels, h, w = values.shape
    weights = mask.reshape(size, 1, 9, factor, factor, h, w).softmax(2)
    around = F.unfold(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3).reshape(size, channels, 9, 1, 1, h, w)
    fine = (weights * around).sum(2)  # (B, C, factor, factor, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(size, channels, factor * h, factor * w)
