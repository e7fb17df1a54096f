"""Compile the kernels before the first problem comes: in an image, at the start of a server, before a measurement."""

import gc
from collections.abc import Collection

import torch

from . import kernels
from .implicit import solve_implicit
from .losses import monte_carlo_loss
from .posterior import sample_posterior
from .problems import Huber
from .robust import ransac
from .solve import solve

LAYERS = ("solve", "posterior", "losses", "ransac")


def warm_up(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", layers: Collection[str] = LAYERS) -> None:
    """Call layers once on a small problem, so that their kernels for a dtype and a device are compiled, or loaded from disk.

    On the CPU the first time after an installation takes about a minute of one core; what was compiled is kept beside the
    package, or in NUMBA_CACHE_DIR, and a new process loads it in a second or two. Images of containers should do this while
    they are built: `python -c "from monopose import pnp; pnp.warm_up()"`, or `monopose doctor --warm-up`.

    Args:
        dtype: torch.float32 or torch.float64, that of points3d.
        device: "cpu" or "cuda".
        layers: of "solve", "posterior", "losses", which are those with a gradient, and "ransac".

    Raises:
        ValueError: for another dtype or layer, or no device.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    if not set(layers) <= set(LAYERS):
        raise ValueError(f"layers must be some of {', '.join(LAYERS)}, got {layers!r}")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be one that torch knows, got {device!r}") from error
    if kernels.backend(device) is None:
        return
    fresh = gc.get_freeze_count() == 0
    if fresh:
        gc.freeze()  # compiling makes millions of small objects: those of torch need not be looked through each time
    try:
        _call(dtype, device, layers)
    finally:
        if fresh:
            gc.unfreeze()


def _call(dtype: torch.dtype, device: torch.device, layers: Collection[str]) -> None:
    g = torch.Generator().manual_seed(0)
    X = (torch.rand(2, 8, 3, generator=g) - 0.5).to(device, dtype)
    K = torch.tensor([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]], device=device, dtype=dtype)
    pose = torch.eye(4, device=device, dtype=dtype).repeat(2, 1, 1)
    pose[:, 2, 3] = 3.0
    h = (X + pose[:, None, :3, 3]) @ K.mT
    x = h[..., :2] / h[..., 2:] + torch.rand(2, 8, 2, generator=g).to(X)
    w = torch.ones_like(x)
    for dof in (6, 4):
        if "solve" in layers:
            solve(X, x, K, w, init=pose, dof=dof)
        if "posterior" in layers:
            sample_posterior(X, x, K, w, dof=dof, samples=16, generator=g)
        if "losses" in layers:
            with torch.enable_grad():
                inputs = [v.clone().requires_grad_() for v in (X, x, w, K)]
                found = solve_implicit(inputs[0], inputs[1], inputs[3], inputs[2], robust=Huber(1.0), dof=dof)
                posterior = sample_posterior(inputs[0], inputs[1], inputs[3], inputs[2], dof=dof, samples=16, generator=g)
                loss = monte_carlo_loss(posterior, pose).sum() + found.cam_from_obj.sum() + found.cost.sum()
                torch.autograd.grad(loss, inputs)
    if "ransac" in layers:
        ransac(X.cpu(), x.cpu(), K.cpu())  # which computes there, in float64, whatever comes
