"""Whole vision systems, built on :mod:`fastvision.ops`."""

from fastvision.models.mtcnn import MTCNN

__all__ = ["MTCNN"]
