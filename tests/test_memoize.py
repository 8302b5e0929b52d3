"""Answers are remembered by what tensors' sizes are, and only where equal arguments mean the same."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastvision import _library, ops
from fastvision.ops._memoized import memoized

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="what remembers is compiled")


class Asked:
    """A function that answers with what it was asked the first time, and counts."""

    def __init__(self, most: int = 100) -> None:
        self.times = 0
        self.memoized: Callable[..., Any] = memoized(self._answer, most)

    def _answer(self, *arguments: Any) -> Any:
        self.times += 1
        return arguments

    def again(self, *arguments: Any) -> bool:
        """Whether it is asked anew for these."""
        before = self.times
        self.memoized(*arguments)
        return self.times > before


@pytest.fixture
def asked() -> Asked:
    return Asked()


SAME: list[tuple[Any, Any]] = [
    (torch.zeros(2, 3), torch.ones(2, 3)),
    (torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=True)),
    (torch.zeros(2, 3), nn.Parameter(torch.zeros(2, 3))),
    (torch.zeros(()), torch.ones(())),
    (torch.zeros(0, 3), torch.zeros(0, 3)),
    (torch.zeros(3, 2).T, torch.ones(3, 2).T),
    (1000, 1000),
    ((2, 3), torch.Size((2, 3))),
    ([2, 3], [2, 3]),
    ((), ()),
    (None, None),
    (-1, -1),
]

OTHER: list[tuple[Any, Any]] = [
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (torch.zeros(2, 3), torch.zeros(2, 3, 1)),
    (torch.zeros(2, 3), torch.zeros(3, 2).T),
    (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int32)),
    (torch.zeros(2, 3, dtype=torch.float16), torch.zeros(2, 3, dtype=torch.bfloat16)),
    (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64)),
    (torch.zeros(1, 1).expand(2, 3), torch.zeros(2, 3)),
    # a dimension of one has a stride too, which says what channels_last is
    (torch.empty_strided((1, 1, 4, 4), (16, 1, 4, 1)), torch.empty_strided((1, 1, 4, 4), (16, 16, 4, 1))),
    (torch.zeros(()), 0),
    (0, None),
    (1, -1),
    (1, 1 << 30),
    ((2, 3), [2, 3]),
    ((2, 3), (3, 2)),
    ((2, 3), (2, 3, 0)),
    (2, (2,)),
]

ALWAYS_NEW: list[Any] = [
    2.0,
    True,
    (True, 2),
    (2.0, 2),
    ((2, 3), (2, 3)),
    "2",
    1 << 40,
    1 << 70,
    [1] * 200,
    torch.zeros(2, 3).to_sparse(),
    torch.zeros(1).expand(1 << 33),
    torch.zeros(2, 3, device="meta"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same(asked: Asked, first: Any, second: Any) -> None:
    assert asked.again(first, 7) and not asked.again(first, 7) and not asked.again(second, 7)
    answer = asked.memoized(second, 7)
    assert answer[0] is first and answer is asked.memoized(first, 7)


@pytest.mark.parametrize(("first", "second"), OTHER)
def test_others(asked: Asked, first: Any, second: Any) -> None:
    assert asked.again(first) and asked.again(second) and not asked.again(first) and not asked.again(second)


def test_where_one_argument_ends(asked: Asked) -> None:
    assert asked.again((1, 2), 3) and asked.again((1, 2, 3)) and asked.again(1, 2, 3) and asked.again((1,), (2, 3))


@pytest.mark.parametrize("argument", ALWAYS_NEW, ids=lambda a: str(getattr(a, "layout", a))[:20])
def test_asked_anew(asked: Asked, argument: Any) -> None:
    assert asked.again(argument, 7) and asked.again(argument, 7)
    assert asked.memoized(argument, 7)[0] is argument


class Subclass(Tensor):
    """Whose sizes may be anything."""


def test_what_is_more_than_a_tensor(asked: Asked) -> None:
    sub = torch.zeros(2, 3).as_subclass(Subclass)
    assert asked.again(sub) and asked.again(sub)


def test_inside_a_transform() -> None:
    shape = memoized(lambda x: tuple(x.shape), 10)
    seen = []

    def inside(x: Tensor) -> Tensor:
        seen.append(shape(x))
        return x.sum()

    assert shape(torch.zeros(2, 3)) == (2, 3)
    torch.vmap(inside)(torch.zeros(2, 3))
    torch.vmap(inside, in_dims=1)(torch.zeros(2, 3))
    torch.func.grad(inside)(torch.zeros(4))
    torch.vmap(torch.func.grad(inside))(torch.zeros(2, 4))
    assert seen == [(3,), (2,), (4,), (4,)]


def test_bounded() -> None:
    asked = Asked(most=2)
    for number in (1, 2, 2, 1):
        asked.memoized(number)
    assert asked.times == 2
    assert asked.again(3) and asked.again(1) and not asked.again(3)


def test_an_error_is_no_answer() -> None:
    def failing(number: int) -> None:
        calls.append(number)
        raise ValueError(number)

    calls: list[int] = []
    function = memoized(failing, 10)
    for _ in range(2):
        with pytest.raises(ValueError, match="3"):
            function(3)
    assert calls == [3, 3]


class Finalized:
    """Comes back to the memo as it dies."""

    memo: Callable[..., Any]

    def __del__(self) -> None:
        self.memo(1, 2, 3)


def test_functions_and_finalizers_that_come_back() -> None:
    def function(*numbers: int) -> Any:
        if len(numbers) == 1:
            memo(*numbers, 0)
        return Finalized()

    memo = Finalized.memo = memoized(function, 5)
    for number in range(500):
        memo(number)
    assert memo(499) is memo(499)
    Finalized.memo = lambda *numbers: None


def test_traced_sizes_are_not_remembered() -> None:
    x, indices = torch.rand(1, 2, 3, 5), torch.zeros(1, 2, 3, 5, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(lambda a, b: ops.max_unpool2d(a, b, 2), (x, indices))
    remembered = sys.modules["fastvision.ops.upsample.max_unpool2d"]._remembered_size  # type: ignore[attr-defined]
    assert [type(side) for side in remembered(x, 2, None, 0, None)] == [int, int]


def test_it_lets_go() -> None:
    asked = Asked()
    answer = torch.zeros(3)
    kept, function = weakref.ref(answer), weakref.ref(asked)
    asked.memoized(answer)
    del answer
    gc.collect()
    assert kept() is not None
    asked.memoized = lambda: None
    del asked
    gc.collect()
    assert kept() is None and function() is None
