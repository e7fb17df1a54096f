"""A small board seen from afar: two poses explain it about equally well, and the posterior shows both.

python examples/two_poses_of_a_plane.py [posterior.png]
"""

import sys

import torch

from monopose import pnp, viz
from monopose.geometry import camera, se3, viewpoints

random = torch.Generator().manual_seed(3)
K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]])
steps = torch.linspace(-0.04, 0.04, 4)
points3d = torch.cartesian_prod(steps, steps, torch.zeros(1))  # metres: 16 points on a board of 8 cm
towards = torch.nn.functional.normalize(torch.tensor([0.3, 0.2, -0.9]), dim=0)
truth = se3.from_rt(viewpoints.look_at(towards, torch.tensor(0.3)), torch.tensor([0.05, -0.03, 1.2]))
noise = 0.7  # pixels
points2d = camera.project(se3.transform(truth, points3d), K) + noise * torch.randn(16, 2, generator=random)
weights = torch.full((16,), 1 / noise)

best = pnp.solve(points3d, points2d, K, weights)
posterior = pnp.sample_posterior(points3d, points2d, K, weights, samples=1024, generator=random)
modes = posterior.mode_costs.isfinite().sum()
print(f"{modes} poses, costs {[round(c, 1) for c in posterior.mode_costs[:modes].tolist()]}; ", end="")
print(f"{posterior.effective_sample_size:.0f} of 1024 samples count, log evidence {posterior.log_evidence:.1f}")

path = sys.argv[1] if len(sys.argv) > 1 else "posterior.png"
samples, log_weights = posterior.samples, posterior.log_weights
turned = viz.orientation_density(samples, log_weights, posterior.modes, truth, best.covariance)
moved = viz.translation_scatter(samples, log_weights, truth, best.cam_from_obj, best.covariance)
viz.contact_sheet([turned, moved], columns=1, width=1000).save(path)
print(path)
