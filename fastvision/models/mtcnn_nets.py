"""The three networks of :mod:`fastvision.models.mtcnn`. Names and sizes are those of the published weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class _Trunk(nn.Module):
    """Convolutions ``conv1..``, each with its PReLU and, where ``pool`` is not 0, a max pooling of stride 2.

    Poolings count what hangs over the far edge: the weights were trained so.
    """

    def __init__(self, layers: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        channels = 3
        self.pools = [pool for _, _, pool in layers]
        for i, (width, kernel, _) in enumerate(layers, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(channels, width, kernel))
            self.add_module(f"prelu{i}", nn.PReLU(width))
            channels = width

    def features(self, pixels: Tensor) -> Tensor:
        """``[N, 3, H, W]``, values 0 to 255 -> ``[N, C, H', W']``."""
        x = (pixels.to(self.get_parameter("conv1.weight").dtype) - 127.5) / 128
        for i, pool in enumerate(self.pools, start=1):
            x = self.get_submodule(f"prelu{i}")(self.get_submodule(f"conv{i}")(x))
            if pool:
                x = F.max_pool2d(x, pool, stride=2, ceil_mode=True)
        return x


class PNet(_Trunk):
    """Proposes: for each 12 x 12 window, two pixels apart, a face's probability and box."""

    def __init__(self) -> None:
        super().__init__([(10, 3, 2), (16, 3, 0), (32, 3, 0)])
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``[1, 3, H, W] -> [H', W'], [4, H', W']``: probabilities, and box offsets in box sides."""
        x = self.features(pixels)
        return self.conv4_1(x)[0].float().softmax(0)[1], self.conv4_2(x)[0].float()


class RNet(_Trunk):
    """Refines: rejects most proposals and moves the rest."""

    def __init__(self) -> None:
        super().__init__([(28, 3, 3), (48, 3, 3), (64, 2, 0)])
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``[K, 3, 24, 24] -> [K], [K, 4]``: probabilities and box offsets."""
        x = self.prelu4(self.dense4(_flatten(self.features(pixels))))
        return self.dense5_1(x).float().softmax(1)[:, 1], self.dense5_2(x).float()


class ONet(_Trunk):
    """Puts out: the last word on each face, and its landmarks."""

    def __init__(self) -> None:
        super().__init__([(32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)])
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[K, 3, 48, 48] -> [K], [K, 4], [K, 5, 2]``: probabilities, box offsets, landmarks within the box."""
        x = self.prelu5(self.dense5(_flatten(self.features(pixels))))
        landmarks = self.dense6_3(x).float().view(-1, 2, 5).transpose(1, 2)
        return self.dense6_1(x).float().softmax(1)[:, 1], self.dense6_2(x).float(), landmarks


def _flatten(features: Tensor) -> Tensor:
    """``[K, C, H, W] -> [K, W H C]``: the weights were trained on column-major images with channels last."""
    return features.permute(0, 3, 2, 1).flatten(1)
