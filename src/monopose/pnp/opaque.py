"""The layers for torch.compile and torch.func: one call that is not looked into, and one clear error."""

import functools
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

PLAIN = {type(None), bool, int, float, str}  # hold no tensors
_Function = TypeVar("_Function", bound=Callable[..., Any])


def opaque(function: _Function) -> _Function:
    """A function that torch.compile calls as it is: one graph break, nothing traced inside, nothing compiled again.

    Raises:
        RuntimeError: inside torch.func.vmap, grad, jacrev and the like, whose tensors hold no numbers that a kernel could read;
            for tensors of forward-mode differentiation, whose tangents would be lost; and while torch.jit or an ONNX export
            traces, which would keep the example's pose for ever.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if type(value) not in PLAIN and _wrapped(value):
                raise RuntimeError(
                    f"pnp.{function.__name__} does not run inside torch.func.vmap, grad, jacrev or jvp, nor in forward mode. "
                    "It takes batches: give leading dimensions instead of vmap, and use torch.autograd.grad or "
                    "torch.autograd.functional.jacobian"
                )
        if torch.jit.is_tracing():
            raise RuntimeError(
                f"pnp.{function.__name__} cannot be traced: the trace would return the example's pose for every input. Export "
                "the network that makes the correspondences, and call the layer on what it returns"
            )
        if torch.empty(0).device.type != "cpu":  # a default is for the caller's tensors: what is made here says where
            with torch.device("cpu"):
                return run(*args, **kwargs)
        if skipped or "torch._dynamo" not in sys.modules:  # which takes seconds to import: who does not compile need not
            return function(*args, **kwargs)
        return _untraced(function)(*args, **kwargs)

    run._torchdynamo_disable = True  # type: ignore[attr-defined]  # what torch.compiler.disable sets
    skipped = _skip(run.__code__)  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]


def _skip(code: CodeType) -> bool:
    """Tell torch.compile to leave a function and all that it calls alone, without the import of what compiles."""
    try:
        frames = torch._C._dynamo.eval_frame
        leave = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(leave, leave))
    except AttributeError:  # an older torch
        return False
    return True


@functools.cache
def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compiler.disable(function)  # type: ignore[no-any-return]


def _wrapped(value: Any) -> bool:
    if isinstance(value, Tensor):
        return torch._C._functorch.is_functorch_wrapped_tensor(value) or forward_ad.unpack_dual(value).tangent is not None
    if isinstance(value, tuple):  # Problems, a robust kernel
        return any(map(_wrapped, value))
    return any(_wrapped(getattr(value, name, None)) for name in ("log_weights", "K")) if value is not None else False
