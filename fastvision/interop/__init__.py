"""Existing libraries running on fastvision's ops."""

from fastvision.interop.patching import patch

__all__ = ["patch"]
