"""What bfloat16 saves in a training step on a CPU that multiplies it.

    python -m benchmarks.half_precision

prints processor seconds of forward and backward of the detector (8 pictures of 320x240) and of the coordinate network (24 crops
of 96x96) on one thread, medians of interleaved rounds, and their ratio. Losses are not part of it.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from monopose.detection import detector
from monopose.objects import coordinates
from monopose.training.loop import multiplies_bfloat16

IDS = tuple(range(1, 9))
ROUNDS = 7


def tensors(output: Any) -> list[Tensor]:
    """All tensors that learn in a network's output."""
    if isinstance(output, Tensor):
        return [output] if output.requires_grad else []
    return [t for part in output if part is not None for t in tensors(part)] if isinstance(output, tuple) else []


def seconds(model: nn.Module, forward: Callable[[], Any], half: bool) -> float:
    """Processor seconds of one step."""
    model.zero_grad()
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = forward()
    torch.stack([t.float().mean() for t in tensors(output)]).sum().backward()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    print(f"instructions for bfloat16: {'yes' if multiplies_bfloat16() else 'no; training stays in float32'}")
    finder = detector.Model(detector.small(IDS, pretrained=False)).train()
    estimator = coordinates.Model(coordinates.Config(IDS, pretrained=False, input_size=96, output_size=48)).train()
    pictures, crops, labels = torch.rand(8, 3, 240, 320), torch.rand(24, 3, 96, 96), torch.tensor(IDS * 3)
    networks: tuple[tuple[nn.Module, Callable[[], Any]], ...] = (
        (finder, lambda: finder(pictures)),
        (estimator, lambda: estimator(crops, labels)),
    )
    for name, (model, forward) in zip(("detector", "coordinates"), networks, strict=True):
        times = [(seconds(model, forward, False), seconds(model, forward, True)) for _ in range(ROUNDS)]
        full, half = (statistics.median(t) for t in zip(*times, strict=True))
        print(f"{name:12s} float32 {full:.2f} s, bfloat16 {half:.2f} s, {full / half:.2f} x")


if __name__ == "__main__":
    main()
