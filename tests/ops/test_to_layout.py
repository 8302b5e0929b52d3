"""Maps turned between planes and channels_last."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvision import _library
from fastvision.ops.upsample._to_layout import to_layout
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing is registered")


@given(
    size=st.tuples(st.integers(0, 3), *[st.sampled_from([1, 2, 3, 7, 16, 63, 64, 65, 130])] * 3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    given_as=st.sampled_from(["planes", "channels_last", "strided"]),
    last=st.booleans(),
)
def test_numbers_stay_and_strides_are_those_asked_for(
    size: tuple[int, ...], dtype: torch.dtype, given_as: str, last: bool, device: torch.device
) -> None:
    if torch.Size(size).numel() > 1 << 18:
        return
    map = torch.randn(size, generator=data.generator(1)).to(device, dtype)
    if given_as == "channels_last":
        map = map.to(memory_format=torch.channels_last)
    elif given_as == "strided":
        map = map.repeat_interleave(2, dim=3)[..., ::2]
    wanted = torch.channels_last if last else torch.contiguous_format
    for turned in (to_layout(map, last), torch.ops.fastvision.to_layout(map, last)):
        assert turned.dtype == dtype and torch.equal(turned, map)
        assert turned.is_contiguous(memory_format=wanted)


def test_a_map_that_is_so_already_is_not_copied(device: torch.device) -> None:
    map = torch.rand(2, 3, 4, 5, device=device)
    assert to_layout(map, False) is map
    last = map.to(memory_format=torch.channels_last)
    assert to_layout(last, True) is last
    assert torch.ops.fastvision.to_layout(map, False).data_ptr() != map.data_ptr()  # an op returns none of its inputs


@pytest.mark.skipif(_library.BACKEND != "native", reason="torch's own, elsewhere, says it in its words")
def test_what_is_no_map_is_an_error() -> None:
    with pytest.raises(ValueError, match="to_layout: expected map of shape"):
        torch.ops.fastvision.to_layout(torch.rand(3, 4, 5), True)
    with pytest.raises(ValueError, match="to_layout: expected map of dtype"):
        torch.ops.fastvision.to_layout(torch.zeros(1, 3, 4, 5, dtype=torch.int64), True)
