"""SPP-net's pooling: whole images against torch's adaptive pooling, regions against torchvision's roi_pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.workload import OURS, REFERENCE, TORCHVISION, Options, Workload, case, close, torchvision_ops
from fastvision import ops
from fastvision.testing import Sample, data

LEVELS = (1, 2, 3, 6)
SCALE = 1 / 16


def workloads(options: Options) -> Iterator[Workload]:
    for last in (False, True):
        layout = torch.channels_last if last else torch.contiguous_format
        features = data.feature_map(1, 256, 38, 50).to(options.device).to(memory_format=layout)
        rois = data.random_rois(2000, 1, 600.0, 800.0).to(options.device)
        name = "channels_last" if last else "NCHW"
        images = features.repeat(8, 1, 1, 1)
        whole: dict[str, Callable[[], Tensor]] = {
            OURS: lambda x=images: ops.spatial_pyramid_pool(x, LEVELS),
            "adaptive_max_pool2d": lambda x=images: torch.cat(
                [F.adaptive_max_pool2d(x, n).flatten(1) for n in LEVELS], 1
            ),
        }
        yield _workload(f"images {name}, 8 x 256x38x50", whole, Sample("", (images, LEVELS)))
        regions: dict[str, Callable[[], Tensor]] = {
            OURS: lambda x=features, r=rois: ops.spatial_pyramid_pool(x, LEVELS, r, spatial_scale=SCALE)
        }
        torchvision = torchvision_ops()
        if torchvision:
            regions[TORCHVISION] = lambda x=features, r=rois, pool=torchvision.roi_pool: torch.cat(
                [pool(x, r, n, SCALE).flatten(1) for n in LEVELS], 1
            )
        yield _workload(f"regions {name}, 2000 of 256x38x50", regions, Sample("", (features, LEVELS, rois)))


def _workload(name: str, contenders: dict[str, Callable[[], Tensor]], sample: Sample) -> Workload:
    return Workload(
        "roi",
        f"spatial_pyramid_pool {name}",
        contenders,
        close(0, 0),
        case("spatial_pyramid_pool").work(sample),
        skipped={REFERENCE: "one slice a bin, seconds a call"},
    )
