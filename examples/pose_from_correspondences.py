"""Points on an object and the pixels that show them: pose, inliers, covariance.

python examples/pose_from_correspondences.py
"""

import torch

from monopose import pnp
from monopose.geometry import camera, rotation, se3

K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]])


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    true = se3.from_rt(rotation.random_rotations(1, generator)[0], torch.tensor([0.05, -0.02, 0.8]))
    points3d = (torch.rand(300, 3, generator=generator) - 0.5) * 0.2  # metres, object frame
    points2d = camera.project(se3.transform(true, points3d), K)  # pixels
    points2d += torch.randn(300, 2, generator=generator)  # a pixel of noise
    points2d[:120] = torch.rand(120, 2, generator=generator) * torch.tensor([640.0, 480.0])  # and 40 % rubbish

    found = pnp.ransac(points3d, points2d, K, threshold_px=3.0)
    assert found.covariance is not None
    angle = rotation.angle_between(found.cam_from_obj[:3, :3], true[:3, :3])
    shift = (found.cam_from_obj[:3, 3] - true[:3, 3]).norm()
    sigma = found.covariance.diagonal().sqrt()
    print(f"inliers        {int(found.inliers.sum())} of {len(points3d)}")
    print(f"rotation error {torch.rad2deg(angle):.2f} deg, translation error {1000 * shift:.2f} mm")
    print(f"the solver's own 1-sigma: {1000 * sigma[:3].norm():.2f} mm, {torch.rad2deg(sigma[3:].norm()):.2f} deg")


if __name__ == "__main__":
    main()
