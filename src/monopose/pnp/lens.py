"""Pixels of a lens with distortion -> pixels of its pinhole camera, with the weights that they have there."""

from typing import Literal

import torch
from torch import Tensor

from ..types import Camera
from . import checks
from .prepare import intrinsics

STEPS = 20  # of Newton's method, most
FOUND = 1e-9  # residual, in focal lengths and float64, of a pixel whose ray was found


def undistort(
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    distortion: Tensor | None = None,
    model: Literal["brown", "fisheye"] = "brown",
) -> tuple[Tensor, Tensor]:
    """Pixels as a camera without distortion would see them, and weights that leave every reprojection error about as it was.

    The layers take the result with K alone. Where the lens magnifies, a pixel of noise is less of an error, so that the weights
    change with the pixels: to first order the information of a pixel is J' W^2 J, J the derivative of the distorted pixel by
    the undistorted one; its diagonal is kept.

    Args:
        points2d: (..., N, 2), pixels of the photo.
        camera: Camera, whose distortion is taken unless another is given, or K (..., 3, 3).
        weights: (..., N, 2) or (..., N), 1 / pixels of the photo; None is 1.
        distortion: OpenCV's coefficients: (k1, k2, p1, p2[, k3[, k4, k5, k6]]), or (k1, k2, k3, k4) of a fisheye; (..., C).
        model: "brown" or "fisheye", as in OpenCV's modules calib3d and fisheye.

    Returns:
        points2d (..., N, 2) and weights (..., N, 2), differentiable, once. A pixel that no ray in front of the camera
        falls on, or NaN, comes back as it was with weight 0, and so do all of a K that is none or whose last row is not 0 0 1.

    Raises:
        ValueError: on shapes that do not fit, another model, or no distortion.

    Source: OpenCV, Camera Calibration and 3D Reconstruction; Kannala and Brandt 2006 for the fisheye.
    """
    points2d = checks.tensor("points2d", points2d)
    if points2d.dim() < 2 or points2d.shape[-1] != 2:
        raise ValueError(f"points2d must be (..., N, 2) pixels, got {tuple(points2d.shape)}")
    if distortion is None and isinstance(camera, Camera):
        distortion = camera.distortion
    counts = {"brown": (4, 5, 8), "fisheye": (4,)}
    if model not in counts:
        raise ValueError(f'model must be "brown" or "fisheye", got {model!r}')
    if distortion is None:
        raise ValueError("undistort needs OpenCV's coefficients: give distortion=, or a Camera that has some")
    d = checks.tensor("distortion", distortion)
    if d.dim() < 1 or d.shape[-1] not in counts[model]:
        wanted = " or ".join(map(str, counts[model]))
        raise ValueError(f"distortion must be (..., {wanted}) for {model!r}, got {tuple(d.shape)}")
    real = torch.promote_types(points2d.dtype, torch.float32)
    x, d = points2d.double(), d.to(points2d.device, torch.float64)[..., None, :]
    n = x.shape[-2]
    w = x.new_ones(n, 2) if weights is None else checks.tensor("weights", weights).to(x)
    w = w[..., None] if w.shape[-1:] == (n,) and w.shape[-2:] != (n, 2) else w
    if w.shape[-2:] not in ((n, 2), (n, 1)):
        raise ValueError(f"weights must be (..., {n}, 2) or (..., {n}), got {tuple(w.shape)}")
    K = intrinsics(camera.K if isinstance(camera, Camera) else camera, x)[..., None, :, :]
    plain = checks.is_camera(K) & (K[..., 2, :2] == 0).all(-1)  # a lens distorts about the axis of its own camera
    K = torch.where(plain[..., None, None], K, torch.eye(3).to(K))
    K = K / K[..., 2:, 2:]
    F, centre = K[..., :2, :2], K[..., :2, 2]
    finite = torch.isfinite(x).all(-1, keepdim=True) & plain[..., None]
    seen = torch.linalg.solve_ex(F, (torch.where(finite, x, 0.0) - centre)[..., None]).result.squeeze(-1)
    lens = _brown if model == "brown" else _fisheye
    with torch.no_grad():
        u = _ray(lens, seen, d)
        bent, J = lens(u, d)
        found = finite[..., 0] & ((bent - seen).abs().amax(-1) < FOUND) & (u.abs().amax(-1) < 1e3)
        found = found & (torch.linalg.det(J) > 0) & (J[..., 0, 0] + J[..., 1, 1] > 0)  # not where the lens folds the image
        u, J = torch.where(found[..., None], u, 0.0), torch.where(found[..., None, None], J, torch.eye(2).to(J))
    target = torch.where(found[..., None], seen, lens(u, d)[0].detach())
    u = u - torch.linalg.solve(J, (lens(u, d)[0] - target)[..., None]).squeeze(-1)  # a last step, which carries the gradient
    J = F @ lens(u, d)[1] @ torch.linalg.inv_ex(F).inverse
    out = (F @ u[..., None]).squeeze(-1) + centre
    weight = (J * w[..., :, None]).square().sum(-2).clamp_min(1e-300).sqrt()
    keep = found[..., None] & (w != 0).any(-1, keepdim=True)
    return torch.where(found[..., None], out, x).to(real), torch.where(keep, weight, 0.0).to(real)


def _ray(lens, seen: Tensor, d: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """What `lens` bends to `seen` (..., N, 2), by Newton's method with steps halved while they lead away."""
    u = seen.clone()
    if lens is _fisheye:  # whose radius is an angle
        angle = seen.norm(dim=-1, keepdim=True).clamp_max(1.5)
        u = seen * torch.where(angle > 1e-9, angle.tan() / angle.clamp_min(1e-9), 1.0)
    for _ in range(STEPS):
        bent, J = lens(u, d)
        off = bent - seen
        step = torch.linalg.solve_ex(J, off[..., None]).result.squeeze(-1).nan_to_num(0.0)
        size, t = off.norm(dim=-1, keepdim=True), torch.ones_like(off[..., :1])
        for _ in range(6):
            worse = ~((lens(u - t * step, d)[0] - seen).norm(dim=-1, keepdim=True) <= size)
            t = torch.where(worse, t / 2, t)
        u = u - t * step
    return u


def _brown(u: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Distorted coordinates (..., N, 2), in focal lengths, and their derivative by u, (..., N, 2, 2)."""
    k1, k2, p1, p2 = d[..., :4].unbind(-1)
    k3 = d[..., 4] if d.shape[-1] > 4 else torch.zeros_like(k1)
    k4, k5, k6 = d[..., 5:8].unbind(-1) if d.shape[-1] > 5 else [torch.zeros_like(k1)] * 3
    x, y = u.unbind(-1)
    r = x * x + y * y
    top, low = 1 + r * (k1 + r * (k2 + r * k3)), 1 + r * (k4 + r * (k5 + r * k6))
    radial = top / low
    slope = ((k1 + r * (2 * k2 + 3 * r * k3)) - radial * (k4 + r * (2 * k5 + 3 * r * k6))) / low
    across = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    bent = torch.stack(
        [x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y], -1
    )
    J = [
        radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x,
        across,
        across,
        radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x,
    ]
    return bent, torch.stack(J, -1).unflatten(-1, (2, 2))


def _fisheye(u: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """As `_brown`: the angle to the optical axis, and an odd polynomial of it, take the place of its tangent."""
    k1, k2, k3, k4 = d.unbind(-1)
    square = u.square().sum(-1)
    near = square < 1e-12
    r = torch.where(near, torch.ones_like(square), square).sqrt()
    angle = r.atan()
    a = angle * angle
    bent = angle * (1 + a * (k1 + a * (k2 + a * (k3 + a * k4))))
    slope = (1 + a * (3 * k1 + a * (5 * k2 + a * (7 * k3 + a * 9 * k4)))) / (1 + r * r)
    across, along = torch.where(near, 1.0, bent / r), torch.where(near, 1.0, slope)
    n = u / r[..., None]
    J = across[..., None, None] * torch.eye(2).to(u) + (along - across)[..., None, None] * (n[..., :, None] * n[..., None, :])
    return across[..., None] * u, J
