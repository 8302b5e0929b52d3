"""RoI max pooling: one level of a detector's training batch, both layouts, and few regions on a small map."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.roi.common import Rivals, Setting, backward, forward, torchvision_rival
from benchmarks.workload import REFERENCE, TORCHVISION, Options, Workload
from fastvision.testing import data


def workloads(options: Options) -> Iterator[Workload]:
    rivals = Rivals(torchvision_rival("roi_pool"), {REFERENCE: "one slice a bin, tens of seconds a call"})
    large = Setting(data.feature_map(2, 256, 200, 272), data.random_rois(512, 2, 800.0, 1088.0), (7, 0.25))
    small = Setting(data.feature_map(1, 256, 25, 25), data.random_rois(8, 1, 400.0, 400.0), (7, 1 / 16))
    for setting, target in ((large, 15.0), (small, 1.0)):
        aims = {} if options.cuda else {TORCHVISION: target}
        for last in (False, True):
            yield forward("roi_pool", setting.on(options, last), rivals, aims)
        yield backward("roi_pool", setting.on(options, False), rivals, {} if setting is large else aims)
    yield backward("roi_pool", large.on(options, True), rivals)
