"""A network learns where the corners of a cube appear in the image from nothing but the pose of the cube.

python examples/bpnp_pose.py

The gradient reaches the corners through the pose solved from them. After the first experiment of Chen et al., BPnP, CVPR 2020.
"""

import torch

from monopose import pnp
from monopose.geometry import camera, rotation, se3

K = torch.tensor([[300.0, 0.0, 128.0], [0.0, 300.0, 128.0], [0.0, 0.0, 1.0]])


def main(iterations: int = 200) -> float:
    random = torch.Generator().manual_seed(0)
    cube = 0.1 * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)  # (8, 3), metres: the corners, 20 cm apart
    true = se3.from_rt(rotation.random_rotations(1, random)[0], torch.tensor([0.02, -0.03, 0.8]))
    corners = camera.project(se3.transform(true, cube), K)

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16))
    image = torch.ones(8)  # stands for any picture and any features of it
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    pose = torch.eye(4)
    pose[2, 3] = 0.8  # the solver's first start: straight ahead, not turned
    for i in range(iterations):
        points2d = 128 + 100 * network(image).unflatten(-1, (8, 2))  # pixels, anywhere at first
        found = pnp.solve_implicit(cube, points2d, K, init=pose)
        pose = found.cam_from_obj.detach()  # the next start
        # The cube at this pose should look like the true one, and the points should be the corners of some cube.
        seen = camera.project(se3.transform(found.cam_from_obj, cube), K)
        loss = (seen - corners).square().mean() + found.cost / len(cube)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 40 == 0 or i == iterations - 1:
            turn = torch.rad2deg(rotation.angle_between(pose[:3, :3], true[:3, :3]))
            shift = 1000 * (pose[:3, 3] - true[:3, 3]).norm()
            off = (points2d.detach() - corners).norm(dim=-1).max()
            print(f"step {i:3d}: pose off by {turn:6.2f} deg and {shift:7.2f} mm, the worst corner by {off:6.2f} px")
    return float(off)


if __name__ == "__main__":
    main()
