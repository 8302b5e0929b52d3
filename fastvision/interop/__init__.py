"""Existing libraries running on fastvision's ops."""

from fastvision.interop.patching import Patch, patch

__all__ = ["Patch", "patch"]
