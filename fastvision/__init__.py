"""fastvision: fast vision ops for PyTorch, on the CPU and on NVIDIA GPUs.

``import fastvision.ops`` gives functions with torchvision's names and signatures; ``fastvision.patch("torchvision")``
sends an existing model's calls to them. Nothing here fails to import: if the compiled library cannot be loaded, the
plain PyTorch ops of :mod:`fastvision.reference` run instead, with one warning that says why.
"""

from fastvision import ops, reference
from fastvision._library import BACKEND, empty_cache
from fastvision.interop import patch

__version__ = "0.1.0"
__all__ = ["BACKEND", "__version__", "empty_cache", "ops", "patch", "reference"]
