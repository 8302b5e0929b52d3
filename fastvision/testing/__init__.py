"""The table of op cases, sample data and timing: shared by the tests and the benchmarks."""

from fastvision.testing.case import OpCase, Sample, Work

__all__ = ["OpCase", "Sample", "Work"]
