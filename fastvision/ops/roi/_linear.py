"""Shape rules and gradients of pooling ops that are linear in the feature map.

Such an op is ``name(input, rois, spatial_scale, P, Q, *how)`` and its transpose ``name_backward(grad, rois,
spatial_scale, batch, height, width, *how, channels_last)``. The transpose of the transpose is the op itself, so it can
be differentiated any number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastvision._library import call, register_autograd, register_fake
from fastvision.ops._layout import empty_map, is_channels_last


def register_linear_pooling(
    name: str,
    pooled_channels: Callable[[int, int], int] = lambda channels, bins: channels,
    map_channels: Callable[[int, int], int] = lambda channels, bins: channels,
) -> None:
    """``pooled_channels(channels of the map, bins)`` and ``map_channels(channels pooled, bins)`` are inverse."""

    @register_fake(name)
    def _(input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, *how: Any) -> Tensor:
        if height < 1 or width < 1:
            raise ValueError(f"{name}: expected a positive output size, got [{height}, {width}]")
        channels = pooled_channels(input.shape[1], height * width)
        return empty_map(input, [rois.shape[0], channels, height, width], is_channels_last(input))

    @register_fake(f"{name}_backward")
    def _(grad: Tensor, rois: Tensor, spatial_scale: float, batch: int, height: int, width: int, *how: Any) -> Tensor:
        channels = map_channels(grad.shape[1], grad.shape[2] * grad.shape[3])
        return empty_map(grad, [batch, channels, height, width], how[-1])

    def save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, rois, ctx.spatial_scale, _, _, *ctx.how = inputs
        ctx.save_for_backward(rois)
        ctx.batch, _, ctx.height, ctx.width = input.shape
        ctx.channels_last = is_channels_last(input)

    def backward(ctx: Any, grad: Tensor) -> Any:
        rest = (None,) * (4 + len(ctx.how))
        if not ctx.needs_input_grad[0]:
            return None, *rest
        (rois,) = ctx.saved_tensors
        size = (ctx.batch, ctx.height, ctx.width)
        return call(f"{name}_backward", grad, rois, ctx.spatial_scale, *size, *ctx.how, ctx.channels_last), *rest

    def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, rois, ctx.spatial_scale, _, _, _, *ctx.how, _ = inputs
        ctx.save_for_backward(rois)
        ctx.pooled = grad.shape[2:]

    def double_backward(ctx: Any, grad: Tensor) -> Any:
        (rois,) = ctx.saved_tensors
        return call(name, grad, rois, ctx.spatial_scale, *ctx.pooled, *ctx.how), *((None,) * (6 + len(ctx.how)))

    register_autograd(name, backward, save_forward)
    register_autograd(f"{name}_backward", double_backward, save_backward)
