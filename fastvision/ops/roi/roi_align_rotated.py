"""RoIAlign of rotated regions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, with_reference
from fastvision.ops.roi._linear import register_linear_pooling
from fastvision.reference.roi.rois import to_rois, to_size


@with_reference(reference.roi.roi_align_rotated)
def roi_align_rotated(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    aligned: bool = True,
    clockwise: bool = False,
) -> Tensor:
    """:func:`roi_align` of regions that are turned about their centres.

    At angle 0 it is ``roi_align(..., aligned=aligned)`` of the same region. A NaN or infinite region, or one wholly
    outside the map, gives zeros and no gradient. However large a region is, only rows and columns of samples that can
    lie inside the map are visited; the mean still divides by all.

    Args:
        input: feature map ``[N, C, H, W]``, any strides; channels_last in gives channels_last out.
        boxes: rois ``[K, 6]`` as ``(image, cx, cy, width, height, angle)``, or a list of ``[K_i, 5]``, one per image,
            in image pixels and degrees, counter-clockwise, in any floating dtype.
        output_size: ``(P, Q)`` bins, or one number for both.
        spatial_scale: feature-map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; ``<= 0``: as many as the bin has pixels, rounded up.
        aligned: shift regions by half a pixel so that pixel centres line up, as Detectron2 does; ``False``: no shift,
            and regions are at least one pixel wide and high, as in mmcv.
        clockwise: angles turn clockwise (mmcv's flag).

    Shapes:
        ``[N, C, H, W], [K, 6] -> [K, C, P, Q]`` in the dtype of ``input``. Differentiable in ``input``, any number of
        times; gradients are bitwise the same in every run and for every number of threads.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an output size below 1, a sampling ratio above 1024.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a region gives zeros).

    Complexity:
        ``O(K P Q s^2 (C + 1))`` for ``s`` samples a bin and axis; the weights of a bin serve all channels.

    Reference:
        Ma et al. 2018, "Arbitrary-Oriented Scene Text Detection via Rotation Proposals", section 3.4; He et al. 2017,
        section 3; conventions of Detectron2's ``ROIAlignRotated`` and mmcv's ``roi_align_rotated``.
    """
    height, width = to_size(output_size)
    rois = to_rois(boxes, input, 5)
    return call("roi_align_rotated", input, rois, spatial_scale, height, width, sampling_ratio, aligned, clockwise)


class RoIAlignRotated(nn.Module):
    """:func:`roi_align_rotated` as a module."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        *,
        aligned: bool = True,
        clockwise: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.clockwise = clockwise

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """``[N, C, H, W], [K, 6] -> [K, C, P, Q]``."""
        return roi_align_rotated(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            aligned=self.aligned,
            clockwise=self.clockwise,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, clockwise={self.clockwise}"
        )


register_linear_pooling("roi_align_rotated")
