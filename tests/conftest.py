"""Which backend and device the ops are tested on.

``FASTVISION_BACKEND`` chooses native or emulated kernels; ``FASTVISION_TEST_DEVICE`` (default ``cpu``) the device.
"""

from __future__ import annotations

import os

# before torch loads OpenMP: threads that spin while they wait take the cores that the other workers of pytest need
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import HealthCheck, settings

import fastvision
from fastvision.ops.upsample.kernel_choice import cuda

settings.register_profile("fastvision", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fastvision")


# convolutions are compared to 1e-4 and less; NVIDIA's 19-bit format, torch's default, has 1e-3
torch.backends.cudnn.allow_tf32 = False
# and their gradients must be the same in every run
torch.backends.cudnn.deterministic = True


def pytest_report_header() -> str:
    return f"fastvision backend: {fastvision.BACKEND}, torch {torch.__version__}, device {_device()}"


def _device() -> str:
    return os.environ.get("FASTVISION_TEST_DEVICE", "cpu")


@pytest.fixture(scope="session", autouse=True)
def layers_of_any_size() -> None:
    """Layers as small as those of the tests are cuDNN's on CUDA: there, kernels of ours are asked for all the same."""
    if _device().startswith("cuda"):
        cuda.pays = lambda layer: True


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(_device())
