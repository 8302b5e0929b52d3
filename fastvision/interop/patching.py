"""Sends another library's functions to fastvision, everywhere that library and its users reach them.

A function is often imported by name (``from torchvision.ops import nms``), so replacing the attribute of its home
module is not enough: every attribute of every imported module that *is* the original function is replaced. Modules
imported later find the replacement at home.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

# library -> our module with its table, `replacements() -> list[Replacement]`
_LIBRARIES = {"torchvision": "fastvision.interop.torchvision"}


@dataclass(frozen=True)
class Replacement:
    """``original``, found as ``owner.name``, gives way to ``substitute``.

    ``owner`` is the home module of a function, or the class of a method. ``substitute`` is an object made for this
    replacement alone: that is how it is told apart, when undone, from the fastvision function it calls.
    """

    owner: ModuleType | type
    name: str
    original: Callable[..., Any]
    substitute: Callable[..., Any]


@dataclass
class _Active:
    replacements: list[Replacement]
    patches: int


_active: dict[str, _Active] = {}
_lock = threading.RLock()


class Patch:
    """A patch in force. ``undo()``, or leaving the ``with`` block, ends it; a second undo does nothing.

    Patches nest: a library is back to its own functions when the last of its patches is undone.
    """

    def __init__(self, libraries: tuple[str, ...]) -> None:
        self.libraries = libraries
        self._in_force = True

    def undo(self) -> None:
        """Gives the libraries their own functions back."""
        with _lock:
            if self._in_force:
                self._in_force = False
                for library in reversed(self.libraries):
                    _release(library)

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"Patch({', '.join(self.libraries)}: {'in force' if self._in_force else 'undone'})"


def patch(*libraries: str) -> Patch:
    """Sends the libraries' ops to fastvision, at once, until the returned patch is undone.

    ``fastvision.patch("torchvision")`` for the rest of the program, or for a while::

        with fastvision.patch("torchvision"):
            detections = model(images)

    A torchvision whose compiled library does not load can be used too; patch before anything imports it.
    Objects that hold a function themselves (a closure, an instance attribute) keep the one they were made with.
    TorchScript compiles source text and so needs the libraries' own functions: script a model before patching, or after
    undoing.

    Args:
        libraries: one or more of ``"torchvision"``.

    Raises:
        ValueError: no library, or one that is not supported.
        ImportError: a library that is not installed or cannot be imported.
    """
    unknown = [library for library in libraries if library not in _LIBRARIES]
    if unknown or not libraries:
        got = ", ".join(repr(library) for library in unknown) or "none"
        raise ValueError(f"patch: expected libraries among {', '.join(map(repr, _LIBRARIES))}, got {got}")
    with _lock:
        # all tables first: if one library is missing, none is patched
        tables = {library: _table(library) for library in libraries if library not in _active}
        for library in libraries:
            if library not in _active:
                _active[library] = _Active(tables[library], 0)
                _swap(tables[library], undo=False)
            _active[library].patches += 1
    return Patch(libraries)


def _table(library: str) -> list[Replacement]:
    table: list[Replacement] = importlib.import_module(_LIBRARIES[library]).replacements()
    return table


def _release(library: str) -> None:
    active = _active[library]
    active.patches -= 1
    if active.patches == 0:
        del _active[library]
        _swap(active.replacements, undo=True)


def _swap(replacements: list[Replacement], *, undo: bool) -> None:
    functions: dict[int, Any] = {}
    for r in replacements:
        old, new = (r.substitute, r.original) if undo else (r.original, r.substitute)
        if isinstance(r.owner, type):
            setattr(r.owner, r.name, new)
        else:
            functions[id(old)] = new
    for module in list(sys.modules.values()):
        # the dictionary, not getattr: lazy modules must stay asleep
        attributes = getattr(module, "__dict__", None) if isinstance(module, ModuleType) else None
        for name, value in list(attributes.items()) if attributes else ():
            if id(value) in functions:
                setattr(module, name, functions[id(value)])
