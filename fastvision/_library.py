"""Loads the compiled kernels, once, and registers what torch needs to know about them.

``FASTVISION_BACKEND`` chooses: ``native`` (the default), ``emulated`` (the CUDA kernels on the host, a test
instrument that wheels do not carry) or ``reference`` (plain PyTorch, nothing loaded).
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch.compiler import is_compiling

from fastvision import _eager, _transforms

_MODULES = {"native": "fastvision._C", "emulated": "fastvision._C_emulated"}
_F = TypeVar("_F", bound=Callable[..., Any])


def _load(requested: str) -> tuple[str, ModuleType | None, str | None]:
    """(backend in use, its module, why the requested one could not be loaded)."""
    if requested == "reference":
        return "reference", None, None
    if requested not in _MODULES:
        return "reference", None, f"FASTVISION_BACKEND={requested!r} is not native, emulated or reference"
    try:
        return requested, importlib.import_module(_MODULES[requested]), None
    except Exception as error:
        # a missing file, a missing symbol, a torch that is too old, a truncated library: the import of fastvision
        # must survive them all
        return "reference", None, f"{type(error).__name__}: {error}"


BACKEND, MODULE, LOAD_ERROR = _load(os.environ.get("FASTVISION_BACKEND", "native"))
LOADED = MODULE is not None

if LOAD_ERROR is not None:
    warnings.warn(
        f"fastvision's compiled library could not be loaded ({LOAD_ERROR}); the slow plain PyTorch ops of "
        "fastvision.reference run instead. `fastvision doctor` says more.",
        RuntimeWarning,
        stacklevel=2,
    )


def build_info() -> dict[str, Any]:
    """What the loaded library was built with, and which of its CPU kernels run here; empty if none is loaded.

    ``streamed_bytes``: CPU kernels that read and write as many write past the caches, where their outputs allow it; 0:
    none do.
    """
    return dict(MODULE.build_info()) if MODULE is not None else {}


def empty_cache() -> None:
    """Gives the memory that large CPU outputs and intermediate results left behind back to the system.

    Up to 512 MB of it is kept for the next ones, because fresh pages cost more than most of what is written to them.
    Elsewhere than on Linux nothing is kept. There the system takes what was not used for a second back by itself when
    memory is short, once outputs that came later have been dropped. An output in such memory, of 1 MB or more, cannot
    be resized in place.
    """
    if MODULE is not None:
        MODULE.empty_cache()


def with_reference(reference: Callable[..., Any]) -> Callable[[_F], _F]:
    """Names the plain PyTorch twin of a public op, which takes its place where no library is loaded."""

    def decorate(op: _F) -> _F:
        chosen: Any = op
        if not LOADED:

            def chosen(*args: Any, **kwargs: Any) -> Any:
                return reference(*args, **kwargs)

            chosen.__name__, chosen.__qualname__ = op.__name__, op.__qualname__
            chosen.__doc__, chosen.__module__ = op.__doc__, op.__module__
        chosen.reference = reference
        return chosen  # type: ignore[no-any-return]

    return decorate


_gradients: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}  # what register_autograd was given
_images: dict[str, Sequence[int]] = {}


@cache
def _function(name: str) -> Callable[..., Any]:
    return _eager.function_of(getattr(torch.ops.fastvision, name).default, *_gradients[name])


@cache
def _transformable(name: str) -> Callable[..., Any]:
    return _transforms.function_of(getattr(torch.ops.fastvision, name).default, *_gradients[name], _images[name])


@cache
def _op(name: str) -> Callable[..., Any]:
    return _eager.inner(getattr(torch.ops.fastvision, name).default)


def _call_transformed(name: str, args: tuple[Any, ...]) -> Any:
    return _transformable(name)(*args)


def call(name: str, *args: Any) -> Any:
    """``torch.ops.fastvision.name(*args)`` of an op with a registered gradient, with less around it in eager mode."""
    if not _eager.is_plain():
        if _eager.is_transformed():
            if is_compiling():  # outside of the graph: what is compiled of an op knows nothing of transforms
                torch._dynamo.graph_break()
                outside: Any = torch.compiler.disable
                return outside(_call_transformed)(name, args)
            if not _eager.is_traced():
                return _call_transformed(name, args)
        return getattr(torch.ops.fastvision, name)(*args)
    if _eager.wants_gradient(args):
        return _function(name)(*args)
    return _eager.without_gradient(_op(name), args)


def register_fake(name: str) -> Callable[[_F], _F]:
    """The shape rule of ``fastvision::name``, for torch.compile and torch.export."""

    def decorate(fake: _F) -> _F:
        if LOADED:
            torch.library.register_fake(f"fastvision::{name}")(fake)
        return fake

    return decorate


def register_autograd(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., Any], images: Sequence[int] = ()
) -> None:
    """The gradient of ``fastvision::name``.

    images: the arguments that have an image along their first axis, where all outputs do.
    """
    if LOADED:
        torch.library.register_autograd(f"fastvision::{name}", backward, setup_context=setup_context)
        _gradients[name], _images[name] = (backward, setup_context), images


by_torch_on_gpu: set[str] = set()  # ops that torch computes there, and may be asked for directly


def register_torchs(name: str, function: Callable[..., Any]) -> None:
    """What ``fastvision::name`` is on a GPU, the emulated one included, where kernels of ours are for the CPU alone."""
    if LOADED:
        by_torch_on_gpu.add(name)
        torch.library.impl(f"fastvision::{name}", "CPU" if BACKEND == "emulated" else "CUDA")(function)


def once_differentiable(name: str) -> None:
    """A second derivative through ``fastvision::name`` raises instead of being silently zero."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"fastvision::{name} has no second derivative")

    register_autograd(name, backward, lambda ctx, inputs, output: None)
