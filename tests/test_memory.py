"""Memory that large CPU outputs and scratch buffers leave behind: used again, never shared, given back when asked."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from typing import Literal

import pytest
import torch
from torch import Tensor

import fastvision
from fastvision import _library, ops

pytestmark = pytest.mark.skipif(
    not _library.LOADED or fastvision.BACKEND != "native" or sys.platform != "linux", reason="only there is it kept"
)


def large(side: int = 256, channels: int = 64) -> Tensor:
    """Values at even pixels and zeros between them, written whole by a kernel of ours; 67 MB for the default."""
    rows = torch.arange(side)[:, None] * 2
    indices = (rows * 2 * side + torch.arange(side) * 2).expand(1, channels, -1, -1)
    maps = torch.arange(float(channels * side * side)).reshape(1, channels, side, side)
    output: Tensor = ops.max_unpool2d(maps, indices, 2)
    return output


def mapped(address: int, within: int = 16 << 20) -> bool:
    """Whether this process has a large block from there on: what the kernel says, whatever else is resident."""
    address += within  # where nothing small is put when the block is gone
    with open("/proc/self/maps") as maps:
        ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    return any(begin <= address < end for begin, end in ranges)


def memory(which: Literal["size", "resident"]) -> int:
    """Bytes of this process, mapped or in memory."""
    with open("/proc/self/statm") as numbers:
        pages = numbers.read().split()[["size", "resident"].index(which)]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def lazily_free() -> int | None:
    """Bytes of this process that the kernel may take when memory is short; None: it does not say."""
    with contextlib.suppress(OSError), open("/proc/self/smaps_rollup") as lines:
        for line in lines:
            if line.startswith("LazyFree:"):
                return int(line.split()[1]) << 10
    return None


def test_outputs_alive_share_nothing() -> None:
    expected = large().clone()
    for _ in range(3):
        kept = [large() for _ in range(4)]
        assert len({t.data_ptr() for t in kept}) == 4
        assert all(torch.equal(t, expected) for t in kept)
        for t in kept:
            t.fill_(-1)
        del kept, t


def test_memory_is_used_again_and_given_back() -> None:
    fastvision.empty_cache()
    address = large().data_ptr()
    assert mapped(address)
    assert large().data_ptr() == address
    fastvision.empty_cache()
    assert not mapped(address)


@pytest.mark.parametrize("height", [80, 120, 160])
def test_outputs_of_some_megabytes_too(height: int) -> None:
    x = torch.rand(1, 64, height, 200)  # 4, 6 and 8 MB
    fastvision.empty_cache()
    address = ops.instance_norm(x).data_ptr()
    other = torch.empty_like(x)  # which takes what the C library has
    assert ops.instance_norm(x).data_ptr() == address != other.data_ptr()
    assert mapped(address, 1 << 20)
    fastvision.empty_cache()
    assert not mapped(address, 1 << 20)


def test_outputs_of_every_op() -> None:
    boxes = torch.rand(1000, 4).cumsum(1)
    fastvision.empty_cache()
    address = ops.box_iou(boxes, boxes).data_ptr()  # 4 MB
    assert ops.box_iou(boxes, boxes).data_ptr() == address
    assert mapped(address, 1 << 20)
    fastvision.empty_cache()
    assert not mapped(address, 1 << 20)


def test_kept_outputs_take_little_more_than_they_have() -> None:
    x = torch.rand(1, 64, 82, 101)  # 2.1 MB: a little more than a huge page
    ops.instance_norm(x)
    fastvision.empty_cache()
    before = memory("resident")
    kept = [ops.instance_norm(x) for _ in range(20)]
    grown, bytes_ = memory("resident") - before, sum(t.nbytes for t in kept)
    assert bytes_ * 0.9 < grown < bytes_ * 1.3


def test_small_outputs_hold_no_large_blocks() -> None:
    fastvision.empty_cache()
    address = large(channels=128).data_ptr()  # 134 MB
    small = large(channels=32)  # 34 MB
    assert small.data_ptr() != address
    assert large(channels=128).data_ptr() == address
    half = large(channels=64)
    assert half.data_ptr() == address
    assert torch.equal(small, half[:, :32])


@pytest.mark.slow  # 538 MB
def test_the_largest_are_not_kept() -> None:
    fastvision.empty_cache()
    address = large().data_ptr()
    large(channels=513)
    assert mapped(address)
    assert large().data_ptr() == address  # room was not made for the other


def test_little_is_kept() -> None:
    fastvision.empty_cache()
    outputs = [large() for _ in range(10)]  # 671 MB
    addresses = [output.data_ptr() for output in outputs]
    assert all(map(mapped, addresses))
    del outputs
    assert sum(map(mapped, addresses)) == 8  # 537 MB
    fastvision.empty_cache()
    assert not any(map(mapped, addresses))


@pytest.mark.skipif(lazily_free() is None, reason="this kernel does not say")
def test_idle_memory_is_marked_for_the_kernel_and_what_is_used_again_and_again_is_not() -> None:
    fastvision.empty_cache()
    before = lazily_free() or 0
    small = torch.rand(1, 64, 160, 200)  # 8 MB
    for _ in range(3):
        large(), ops.instance_norm(small)
    assert (lazily_free() or 0) - before < 4 << 20
    for _ in range(2):  # also after a marked one was taken
        time.sleep(1.1)  # a second is what makes it idle
        ops.instance_norm(small)
        assert (lazily_free() or 0) - before > 60 << 20  # of 67 MB
        large().fill_(1)
        assert (lazily_free() or 0) - before < 4 << 20
    fastvision.empty_cache()


def test_of_equal_blocks_the_last_is_taken() -> None:
    fastvision.empty_cache()
    first, second = large(), large()
    address = second.data_ptr()
    del first
    del second
    assert large().data_ptr() == address
    fastvision.empty_cache()


def test_scratch_memory_is_kept_and_given_back() -> None:
    features = torch.rand(1, 512, 64, 64)
    output = ops.gram_matrix(features)  # sums of eight chunks, of half a matrix of 1 MB each
    kept = memory("size")
    fastvision.empty_cache()
    assert kept - memory("size") >= 2 << 20
    assert output.numel()


def test_little_scratch_memory_is_kept_by_its_thread() -> None:
    resource = pytest.importorskip("resource")  # where it is missing nothing is kept
    features = torch.rand(1, 64, 256, 256)
    faults = []

    def work() -> None:
        for _ in range(4):
            ops.gram_matrix(features)  # 256 KB a thread, and 320 KB of sums
            faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    pages = (256 << 10) // resource.getpagesize()
    assert faults[0] > pages > faults[3] - faults[1]


def test_an_output_outlives_the_others() -> None:
    mine = large()
    expected, view = mine.clone(), mine[0, 5:]
    del mine
    fastvision.empty_cache()
    for _ in range(3):
        large().fill_(-1)
    assert torch.equal(view, expected[0, 5:])
    buffer = io.BytesIO()
    torch.save(view.clone(), buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer), view)


def test_threads_and_a_forked_process() -> None:
    expected, wrong = large().clone(), []

    def work() -> None:
        for _ in range(4):
            output = large()
            if not torch.equal(output, expected):
                wrong.append(1)
            output.fill_(-1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    output = large()
    child = os.fork()
    if child == 0:  # with no threads but its own, so nothing may ask for more
        try:
            fastvision.empty_cache()
            output.numpy()[:] = -1
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(output, expected)
