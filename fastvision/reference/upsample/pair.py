"""Sizes that may be one number for both axes."""

from __future__ import annotations

from collections.abc import Sequence


def to_pair(value: int | Sequence[int]) -> tuple[int, int]:
    """(rows, columns)"""
    if isinstance(value, Sequence):
        first, second = value if len(value) == 2 else (value[0], value[0])
        return first, second
    return value, value
