"""Position-sensitive pooling: the heads of R-FCN (21 classes) and Light-Head R-CNN (10 channels a bin)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.roi.common import Rivals, Setting, backward, forward, torchvision_rival
from benchmarks.workload import REFERENCE, TORCHVISION, Options, Workload
from fastvision.testing import data


def workloads(options: Options) -> Iterator[Workload]:
    rois = data.random_rois(300, 1, 600.0, 1000.0)
    r_fcn, light_head = data.feature_map(1, 21 * 49, 38, 63), data.feature_map(1, 10 * 49, 38, 63)
    aims = {} if options.cuda else {TORCHVISION: 2.0}
    at_least = {} if options.cuda else {TORCHVISION: 1.0}
    for last in (False, True):
        for features, ratio, label in ((r_fcn, 2, "s=2"), (r_fcn, 0, "adaptive"), (light_head, 2, "s=2")):
            setting = Setting(features, rois, (7, 1 / 16, ratio), label).on(options, last)
            yield forward("ps_roi_align", setting, _rivals("ps_roi_align"), aims)
        setting = Setting(r_fcn, rois, (7, 1 / 16)).on(options, last)
        yield forward("ps_roi_pool", setting, _rivals("ps_roi_pool"), at_least)
        # where a bin meets the end of the map, torchvision's gradient is not that of its forward
        inner = Setting(r_fcn, data.random_rois(300, 1, 570.0, 970.0), (7, 1 / 16)).on(options, last)
        yield backward("ps_roi_pool", inner, _rivals("ps_roi_pool"), at_least)
        setting = Setting(r_fcn, rois, (7, 1 / 16, 2), "s=2").on(options, last)
        yield backward("ps_roi_align", setting, _rivals("ps_roi_align"), at_least)
    few = data.random_rois(8, 1, 600.0, 1000.0)
    for last in (False, True):
        small = Setting(r_fcn, few, (7, 1 / 16, 2), "s=2").on(options, last)
        yield forward("ps_roi_align", small, _rivals("ps_roi_align"), at_least)
        yield backward("ps_roi_align", small, _rivals("ps_roi_align"), at_least)
        small = Setting(r_fcn, data.random_rois(8, 1, 570.0, 970.0), (7, 1 / 16)).on(options, last)
        yield forward("ps_roi_pool", small, _rivals("ps_roi_pool"), at_least)
        yield backward("ps_roi_pool", small, _rivals("ps_roi_pool"), at_least)


def _rivals(name: str) -> Rivals:
    return Rivals(torchvision_rival(name), {REFERENCE: "pools every bin of every channel, 49 times the work"})
