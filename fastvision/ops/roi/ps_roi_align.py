"""Position-sensitive RoIAlign."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, with_reference
from fastvision.ops.roi._linear import register_linear_pooling
from fastvision.reference.roi.rois import to_rois, to_size


@with_reference(reference.roi.ps_roi_align)
def ps_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    """Averages bilinear samples over the bins of each region, each bin from a channel of its own.

    Samples are those of :func:`roi_align` with ``aligned=True``. A NaN or infinite region, or one wholly outside the
    map, gives zeros and no gradient.

    Args:
        input: feature map ``[N, C P Q, H, W]``, any strides; channels_last in gives channels_last out.
        boxes: rois ``[K, 5]`` as ``(image, x1, y1, x2, y2)``, or a list of ``[K_i, 4]``, one per image, in image
            pixels and any floating dtype.
        output_size: ``(P, Q)`` bins, or one number for both.
        spatial_scale: feature-map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; ``<= 0``: as many as the bin has pixels, rounded up.

    Shapes:
        ``[N, C P Q, H, W], [K, 5] -> [K, C, P, Q]`` in the dtype of ``input``; bin ``(i, j)`` of channel ``c`` is
        pooled from channel ``(c P + i) Q + j``. Differentiable in ``input``, any number of times; gradients are bitwise
        the same in every run and for every number of threads.

    Raises:
        ValueError: wrong shapes, dtypes or devices, channels that are no multiple of ``P Q``, an output size below
            1, a sampling ratio above 2^20.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a region gives zeros).

    Complexity:
        ``O(K C P Q s^2)`` for ``s`` samples a bin and axis, weights shared by all channels.

    Reference:
        Li et al. 2017, "Light-Head R-CNN", section 3; Dai et al. 2016, "R-FCN", section 2;
        signature of ``torchvision.ops.ps_roi_align``.
    """
    height, width = to_size(output_size)
    rois = to_rois(boxes, input)
    return call("ps_roi_align", input, rois, spatial_scale, height, width, sampling_ratio)


class PSRoIAlign(nn.Module):
    """:func:`ps_roi_align` as a module; same arguments as ``torchvision.ops.PSRoIAlign``."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """``[N, C P Q, H, W], [K, 5] -> [K, C, P, Q]``."""
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, sampling_ratio={self.sampling_ratio}"
        )


register_linear_pooling("ps_roi_align", lambda channels, bins: channels // bins, lambda channels, bins: channels * bins)
