"""Camera calibration: focal lengths and principal point from twenty photos of a known board at unknown poses.

python examples/bpnp_calibration.py

Only four numbers are learned. Every step solves all poses with the intrinsics of the moment. After the third experiment of
Chen et al., BPnP, CVPR 2020.
"""

import torch
from torch import Tensor

from monopose import pnp
from monopose.geometry import camera, rotation, se3

F64 = torch.float64


def intrinsics(numbers: Tensor) -> Tensor:
    """fx, fy, cx, cy, (4,), pixels -> K, (3, 3)."""
    fx, fy, cx, cy = numbers
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).unflatten(0, (3, 3))


def main(iterations: int = 40) -> float:
    random = torch.Generator().manual_seed(0)
    true = torch.tensor([612.0, 598.0, 331.0, 228.0], dtype=F64)
    ticks = 0.03 * torch.arange(-3, 4, dtype=F64)
    board = torch.cartesian_prod(ticks, ticks, torch.zeros(1, dtype=F64))  # (49, 3), metres: 18 cm wide, flat
    tilted = rotation.so3_exp(0.5 * torch.randn(20, 3, generator=random, dtype=F64))
    t = torch.tensor([0.0, 0.0, 0.5], dtype=F64) + 0.08 * torch.randn(20, 3, generator=random, dtype=F64)
    points2d = camera.project(se3.transform(se3.from_rt(tilted, t), board), intrinsics(true))  # (20, 49, 2)
    points2d += 0.2 * torch.randn(20, 49, 2, generator=random, dtype=F64)

    guess = torch.tensor([800.0, 800.0, 320.0, 240.0], dtype=F64)
    factor = torch.ones(4, dtype=F64, requires_grad=True)  # of the guess: steps of all four are alike
    optimizer = torch.optim.LBFGS([factor], max_iter=iterations, line_search_fn="strong_wolfe")

    def reprojection() -> Tensor:  # mean squared pixels at the poses solved with these intrinsics
        optimizer.zero_grad()
        found = pnp.solve_implicit(board, points2d, intrinsics(guess * factor))
        loss = 2 * found.cost.mean() / len(board)
        loss.backward()
        return loss

    before = reprojection().item() ** 0.5
    optimizer.step(reprojection)
    after = reprojection().item() ** 0.5
    numbers = (guess * factor).detach()
    print(f"reprojection {before:.2f} -> {after:.2f} px")
    for name, a, b, c in zip(("fx", "fy", "cx", "cy"), guess.tolist(), numbers.tolist(), true.tolist()):
        print(f"{name}: guess {a:.0f}, found {b:.1f}, true {c:.0f}")
    return float((numbers - true).abs().max())


if __name__ == "__main__":
    main()
