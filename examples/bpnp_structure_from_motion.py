"""Structure from motion: the shape of an object from twelve photos that show half of it each.

python examples/bpnp_structure_from_motion.py

Only the points are learned. Every step solves the poses that suit them best, starting from those of the step before. After the
second experiment of Chen et al., BPnP, CVPR 2020.
"""

import torch
from torch import Tensor

from monopose import pnp
from monopose.geometry import camera, rotation, se3, viewpoints

F64 = torch.float64
K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]], dtype=F64)


def main(count: int = 300, iterations: int = 40) -> float:
    random = torch.Generator().manual_seed(0)
    outward = viewpoints.fibonacci_sphere(count, F64)
    true = 0.1 * outward * (1 + 0.2 * torch.sin(7 * outward).sum(-1, keepdim=True))  # (N, 3), metres: a ball with bumps
    rotations = viewpoints.look_at(viewpoints.fibonacci_sphere(12, F64))
    cam_from_obj = se3.from_rt(rotations, torch.tensor([0.0, 0.0, 0.6], dtype=F64))
    points2d = camera.project(se3.transform(cam_from_obj, true), K)  # (12, N, 2)
    points2d += 0.5 * torch.randn(12, count, 2, generator=random, dtype=F64)
    visible = (rotations[:, 2] @ outward.mT < 0).to(F64)  # (12, N), weights: 1 for a point that faces the camera, 0 behind

    # Where the photographer thinks that he stood, and all points as far away from the first photo that shows them.
    guess = torch.tensor([0.02] * 3 + [0.2] * 3, dtype=F64) * torch.randn(12, 6, generator=random, dtype=F64)
    poses = se3.retract(cam_from_obj, guess)
    first = visible.argmax(0)  # (N,)
    ahead = camera.unproject(points2d[first, torch.arange(count)], torch.full((count,), 0.6, dtype=F64), K)
    points3d = se3.transform(se3.inverse(poses)[first], ahead[:, None])[:, 0].requires_grad_()
    optimizer = torch.optim.LBFGS([points3d], max_iter=iterations, line_search_fn="strong_wolfe")

    def reprojection() -> Tensor:  # mean squared pixels of the visible points at the poses solved for these points
        nonlocal poses
        optimizer.zero_grad()
        found = pnp.solve_implicit(points3d, points2d, K, visible, init=poses)
        poses = found.cam_from_obj.detach()
        loss = 2 * found.cost.sum() / visible.sum()
        loss.backward()
        return loss

    before = reprojection().item() ** 0.5
    optimizer.step(reprojection)
    after = reprojection().item() ** 0.5
    # Pictures do not tell where the object lies, how it is turned and how large it is: compare after a similarity.
    a, b = points3d.detach() - points3d.detach().mean(0), true - true.mean(0)
    a = a @ rotation.nearest_rotation(b.mT @ a).mT
    error = 1000 * (a * (a * b).sum() / a.square().sum() - b).norm(dim=-1)
    print(
        f"reprojection {before:.1f} -> {after:.2f} px; {count} points off by {error.mean():.2f} mm, at most {error.max():.2f}"
    )
    return float(error.mean())


if __name__ == "__main__":
    main()
