"""Answers about a layer's sizes, which take as long to find as a small layer does to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.compiler import is_compiling

_A = TypeVar("_A")


class Remembered(dict[tuple[Any, ...], _A]):
    """``remembered[arguments]`` is ``function(*arguments)``, looked up if it was asked for before.

    Args:
        function: of hashable arguments, always with the same answer.
        most: answers kept; one more, and all are forgotten.
        keep: which answers may stand for equal arguments of other types, as 2.0 is for 2.
    """

    def __init__(
        self, function: Callable[..., _A], most: int, keep: Callable[[_A], bool] = lambda answer: True
    ) -> None:
        super().__init__()
        self._function, self._most, self._keep = function, most, keep

    def __missing__(self, arguments: tuple[Any, ...]) -> _A:
        answer = self._function(*arguments)
        if self._keep(answer):
            if len(self) >= self._most:
                self.clear()
            self[arguments] = answer
        return answer

    def of(self, *arguments: Any) -> _A:
        """The same for callers that cannot tell whether their arguments can be looked up."""
        if not is_compiling():
            try:
                return self[arguments]
            except TypeError:  # lists and symbolic sizes are no keys
                pass
        return self._function(*arguments)
