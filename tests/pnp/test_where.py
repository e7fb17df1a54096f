"""Where the layers run: under torch.compile and torch.func, on a read-only installation, compiled beforehand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import monopose
from monopose import pnp

K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]])


def problem(batch=3, n=10):
    g = torch.Generator().manual_seed(batch)
    X = 0.2 * torch.rand(batch, n, 3, generator=g)
    h = (X + torch.tensor([0.0, 0.0, 1.0])) @ K.mT
    return X, h[..., :2] / h[..., 2:] + 0.3 * torch.rand(batch, n, 2, generator=g)


LAYERS = {
    "solve": lambda X, x: pnp.solve(X, x, K).cost,
    "solve_implicit": lambda X, x: pnp.solve_implicit(X, x, K).cam_from_obj,
    "sample_posterior": lambda X, x: pnp.sample_posterior(X, x, K, samples=16).log_evidence,
    "ransac": lambda X, x: pnp.ransac(X, x, K).cam_from_obj,
}


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_networks_call_the_layer_as_it_is(name):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    layer = LAYERS[name]
    compiled = torch.compile(lambda X, x: layer(X, 1.0 * x) * 2, backend="eager")
    for batch, n in ((3, 10), (3, 10), (5, 12), (2, 8)):
        X, x = problem(batch, n)
        x.requires_grad_()
        torch.manual_seed(0)
        found = compiled(X, x)
        torch.manual_seed(0)
        expected = 2 * layer(X, x)
        torch.testing.assert_close(found, expected)
        if expected.requires_grad:
            a, b = (torch.autograd.grad(v.sum(), x)[0] for v in (found, expected))
            torch.testing.assert_close(a, b)
    breaks = counters["graph_break"]
    assert len(breaks) == 1, breaks


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("transform", ["vmap", "grad", "jacrev"])
def test_function_transforms_are_refused_clearly(name, transform):
    X, x = problem()
    calls = {
        "vmap": lambda: torch.func.vmap(LAYERS[name])(X, x),
        "grad": lambda: torch.func.grad(lambda v: LAYERS[name](X, v).sum())(x),
        "jacrev": lambda: torch.func.jacrev(lambda v: LAYERS[name](X, v))(x),
    }
    with pytest.raises(RuntimeError, match=rf"pnp.{name} does not run inside torch.func.vmap"):
        calls[transform]()


@pytest.mark.slow
def test_a_read_only_installation_compiles_in_memory_and_says_so(tmp_path):
    """No folder for __pycache__, no home: decorated functions still work, and one warning says why that is slow."""
    source = Path(monopose.__file__).parent
    shutil.copytree(source, tmp_path / "monopose", ignore=shutil.ignore_patterns("__pycache__"))
    for package in ("pnp/kernels", "render"):
        (tmp_path / "monopose" / package / "__pycache__").touch()  # no folder can be made here: as on a read-only disk
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as heard:\n"
        "    warnings.simplefilter('always')\n"
        "    import numpy as np\n"
        "    from monopose.pnp.kernels import amis_cpu, cpu, implicit_cpu, numba_ransac\n"
        "    value = numba_ransac.median(np.array([3.0, 1.0, 2.0]))\n"
        "print(value, sum('NUMBA_CACHE_DIR' in str(w.message) for w in heard))"
    )
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    env |= {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["2.0", "1"], run.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warm_up_leaves_nothing_to_compile(dtype):
    from numba.core import event

    pnp.warm_up(dtype)
    with event.install_timer("numba:compile", lambda seconds: None) as timer:
        X, x = (v.to(dtype) for v in problem())
        X.requires_grad_()
        posterior = pnp.sample_posterior(X, x, K, robust=pnp.Huber(1.0), samples=16)
        loss = pnp.monte_carlo_loss(posterior, posterior.mode).sum() + pnp.solve_implicit(X, x, K).cam_from_obj.sum()
        loss.backward()
        pnp.ransac(X, x, K)
    assert not timer.done
    with pytest.raises(ValueError, match="dtype must be"):
        pnp.warm_up(torch.float16)
    with pytest.raises(ValueError, match=r"layers must be some of solve, posterior, losses, ransac, got \('pnp',\)"):
        pnp.warm_up(layers=("pnp",))
