"""PnP as a layer: from poses alone a network learns where key points really are and how far to trust each of them.

python examples/pnp_layer_in_your_network.py
"""

import torch

from monopose import pnp
from monopose.geometry import camera, rotation, se3

K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]])
random = torch.Generator().manual_seed(0)
points3d = 0.2 * torch.rand(24, 3, generator=random) - 0.1  # metres: key points of an object


def your_data(n):  # pixels 8 too far left with noise of 1 to 20, a hint at that noise, and true poses
    t = torch.tensor([0.0, 0.0, 0.8]) + 0.1 * torch.randn(n, 3, generator=random)
    truth, hint = se3.from_rt(rotation.random_rotations(n, random), t), torch.rand(n, 24, 1, generator=random)
    pixels = camera.project(se3.transform(truth, points3d), K) + 20**hint * torch.randn(n, 24, 2, generator=random)
    return pixels - torch.tensor([8.0, 0.0]), hint, truth


network = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))


def correspondences(pixels, hint):  # points (n, 24, 2), pixels, and weights (n, 24, 2), 1 / pixels
    shift, log_weights = network(hint).split(2, -1)
    return pixels + 10 * shift, log_weights.exp()


optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
for _ in range(150):
    pixels, hint, truth = your_data(32)
    points2d, weights = correspondences(pixels, hint)
    posterior = pnp.sample_posterior(points3d, points2d, K, weights, init=truth, samples=128, generator=random)
    best = pnp.solve_implicit(points3d, points2d, K, weights, init=posterior.mode).cam_from_obj
    loss = (pnp.monte_carlo_loss(posterior, truth) + sum(pnp.derivative_loss(best, truth))).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
pixels, hint, truth = your_data(500)
for name, (points2d, weights) in {"as found": (pixels, None), "learned": correspondences(pixels, hint)}.items():
    found = pnp.solve(points3d, points2d, K, weights)  # weights None: all 1
    error, variance = 1000 * (found.cam_from_obj - truth)[:, :3, 3], 1e6 * found.covariance.diagonal(dim1=-2, dim2=-1)[:, :3]
    print(f"{name}: {error.square().sum(-1).mean().sqrt():.1f} mm off, it expects {variance.sum(-1).mean().sqrt():.1f} mm")
