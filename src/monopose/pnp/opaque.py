"""The layers as torch.compile and torch.func meet them: one call that is not looked into, and one clear error."""

import functools
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor

PLAIN = {type(None), bool, int, float, str}  # hold no tensors
_Function = TypeVar("_Function", bound=Callable[..., Any])


def opaque(function: _Function) -> _Function:
    """A function that torch.compile calls as it is: one graph break, nothing traced inside, nothing compiled again.

    Raises:
        RuntimeError: inside torch.func.vmap, grad, jacrev and the like, whose tensors hold no numbers that a kernel could read.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if type(value) not in PLAIN and _wrapped(value):
                raise RuntimeError(
                    f"pnp.{function.__name__} does not run inside torch.func.vmap, grad, jacrev or jvp. It takes batches: "
                    "give leading dimensions instead of vmap, and use torch.autograd.grad or torch.autograd.functional.jacobian"
                )
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
        return torch._C._functorch.is_functorch_wrapped_tensor(value)
    if hasattr(value, "log_weights"):  # a Posterior
        return _wrapped(value.log_weights)
    return _wrapped(getattr(value, "K", None)) or _wrapped(getattr(value, "delta", None)) if value is not None else False
