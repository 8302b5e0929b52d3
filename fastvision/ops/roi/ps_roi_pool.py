"""Position-sensitive RoI pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, with_reference
from fastvision.ops.roi._linear import register_linear_pooling
from fastvision.reference.roi.rois import to_rois, to_size


@with_reference(reference.roi.ps_roi_pool)
def ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Averages the pixels in the bins of each region, each bin from a channel of its own.

    Corners are rounded to pixels; the closing corner does not belong to the region, which is at least one pixel long,
    and the last row and column of the map belong to none, as published and in torchvision (whose
    gradient has them all the same, and so is not that of its result). A bin without a pixel is zero, and so is a NaN or
    infinite region.

    Args:
        input: feature map ``[N, C P Q, H, W]``, any strides; channels_last in gives channels_last out.
        boxes: rois ``[K, 5]`` as ``(image, x1, y1, x2, y2)``, or a list of ``[K_i, 4]``, one per image, in image
            pixels and any floating dtype.
        output_size: ``(P, Q)`` bins, or one number for both.
        spatial_scale: feature-map pixels per image pixel.

    Shapes:
        ``[N, C P Q, H, W], [K, 5] -> [K, C, P, Q]`` in the dtype of ``input``; bin ``(i, j)`` of channel ``c`` is
        pooled from channel ``(c P + i) Q + j``. Differentiable in ``input``, any number of times; gradients are bitwise
        the same in every run and for every number of threads.

    Raises:
        ValueError: wrong shapes, dtypes or devices, channels that are no multiple of ``P Q``, an output size below
            1.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a region gives zeros).

    Complexity:
        ``O(K C h w)`` for regions of ``h x w`` feature pixels.

    Reference:
        Dai et al. 2016, "R-FCN", section 2; signature of ``torchvision.ops.ps_roi_pool``.
    """
    height, width = to_size(output_size)
    rois = to_rois(boxes, input)
    return call("ps_roi_pool", input, rois, spatial_scale, height, width)


class PSRoIPool(nn.Module):
    """:func:`ps_roi_pool` as a module; same arguments as ``torchvision.ops.PSRoIPool``."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """``[N, C P Q, H, W], [K, 5] -> [K, C, P, Q]``."""
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


register_linear_pooling("ps_roi_pool", lambda channels, bins: channels // bins, lambda channels, bins: channels * bins)
