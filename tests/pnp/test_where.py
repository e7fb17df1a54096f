"""Where the layers run: under torch.compile and torch.func, on a read-only installation, compiled beforehand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

import monopose
from monopose import pnp
from monopose.pnp.prepare import prepare

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


@settings(max_examples=40, deadline=None)
@drawn(
    st.sampled_from([pnp.solve, pnp.solve_implicit, pnp.sample_posterior, pnp.ransac]),
    st.sampled_from(["points3d", "points2d", "camera", "weights", "init", "robust"]),
    st.sampled_from(["vmap", "grad", "forward mode"]),
)
def test_transforms_are_refused_whichever_argument_they_wrap(layer, argument, transform):
    X, x = problem()
    given = {
        "points3d": X,
        "points2d": x,
        "camera": K.repeat(3, 1, 1),
        "weights": torch.ones(3, 10),
        "init": torch.eye(4).repeat(3, 1, 1),
    }
    given |= {} if layer is pnp.ransac else {"robust": torch.ones(3)}
    if argument not in given:
        return

    def call(value):
        changed = {**given, argument: value}
        if "robust" in changed:
            changed["robust"] = pnp.Huber(changed["robust"])
        return layer(**changed)[2].sum() if layer is not pnp.sample_posterior else layer(**changed).log_evidence.sum()

    run = {"vmap": torch.func.vmap, "grad": torch.func.grad, "forward mode": _dual}[transform]
    with pytest.raises(RuntimeError, match=rf"pnp.{layer.__name__} does not run inside torch.func.vmap"):
        run(call)(given[argument])


def _dual(call):
    def run(value):
        with forward_ad.dual_level():
            return call(forward_ad.make_dual(value, torch.ones_like(value)))

    return run


@settings(max_examples=20, deadline=None)
@drawn(
    st.sampled_from(sorted(LAYERS)),
    st.integers(1, 4),
    st.integers(4, 12),
    st.sampled_from(["inference", "float64", "threads", "device"]),
)
def test_where_a_layer_runs_changes_nothing(name, batch, n, place):
    X, x = problem(batch, n)
    torch.manual_seed(0)
    expected = LAYERS[name](X, x)
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    try:
        if place == "inference":
            with torch.inference_mode():
                found = LAYERS[name](X, x)
        elif place == "device":
            with torch.device("meta"):  # stands for any other than that of the points
                found = LAYERS[name](X, x)
        else:
            torch.set_default_dtype(torch.float64 if place == "float64" else torch.float32)
            torch.set_num_threads(3 if place == "threads" else threads)
            found = LAYERS[name](X, x)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["solve_implicit", "sample_posterior", "one_step"])
def test_forward_mode_is_refused_not_ignored(name):
    X, x = problem()
    pose = pnp.solve(X, x, K).cam_from_obj
    layers = LAYERS | {"one_step": lambda X, x: pnp.one_step(prepare(X, x, K).problems, pose)}
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="nor in forward mode"):
            layers[name](X, forward_ad.make_dual(x, torch.ones_like(x)))
        assert torch.isfinite(layers[name](X, x)).all()


@pytest.mark.filterwarnings("ignore")
def test_a_trace_would_keep_one_pose_and_is_refused():
    X, x = problem()
    with pytest.raises(RuntimeError, match=r"pnp.solve_implicit cannot be traced"):
        torch.jit.trace(lambda v: LAYERS["solve_implicit"](X, v), (x,))


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
        "    value = numba_ransac.ranked(np.array([3.0, 1.0, 2.0]), 1)\n"
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
