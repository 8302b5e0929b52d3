"""Calls as CUDA graphs: what the device does, without what Python and the launches cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` recorded at the first use, replayed at each; its outputs are overwritten by the next."""
    recorded: tuple[torch.cuda.CUDAGraph, Any] | None = None

    def replay() -> Any:
        nonlocal recorded
        if recorded is None:
            recorded = _record(call)
        graph, output = recorded
        graph.replay()
        return output

    return replay


def _record(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries choose their kernels, and compilers compile
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return graph, output
