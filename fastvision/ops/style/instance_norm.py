"""Instance normalisation, plain or conditional, with its activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.ops.style._second_derivative import instance_norm_double_backward
from fastvision.reference.style.instance_norm import activated, check_dimensions, slope_of


@with_reference(reference.style.instance_norm)
def instance_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    leaky_slope: float = 0.01,
    style: Tensor | None = None,
) -> Tensor:
    """Each plane of each image less its own mean, by its own standard deviation, then scaled, shifted and activated.

    The variance is the biased one, as in ``torch.nn.functional.instance_norm``. A plane of one pixel has variance 0 and
    gives its bias. A NaN or an infinity makes its own plane NaN and no other. Means far from zero cost no accuracy:
    moments are float64, and each block of pixels is measured about its own mean.

    Args:
        input: ``[N, C, *spatial]`` of 3 to 5 dimensions, any strides; channels_last in gives channels_last out.
        weight: ``[C]``, or ``[S, C]`` with ``style``, in any floating dtype; None: 1.
        bias: likewise; None: 0.
        eps: added to the variance.
        activation: None, ``"relu"`` or ``"leaky_relu"``, applied to the output.
        leaky_slope: of ``"leaky_relu"`` below zero.
        style: int64 ``[N]``, for each image the row of ``weight`` and ``bias`` it is scaled by.

    Shapes:
        ``[N, C, *spatial] -> [N, C, *spatial]`` in the dtype of ``input``. Differentiable in ``input``, ``weight`` and
        ``bias``, any number of times; bitwise the same in every run and for every number of threads.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an unknown activation, ``style`` without weight and bias.
        IndexError: a style outside ``[0, S)`` (on the CPU; on CUDA such an image gives zeros).

    Complexity:
        ``O(N C H W)``; one pass over a plane for its moments, one for the output. The backward keeps ``input`` and
        ``[N, C]`` moments, not the output.

    Reference:
        Ulyanov et al. 2016, "Instance Normalization: The Missing Ingredient for Fast Stylization"; with ``style``
        Dumoulin et al. 2017, "A Learned Representation For Artistic Style", section 2.2.
    """
    check_dimensions(input)
    slope = slope_of(activation, leaky_slope)
    planes = input.unsqueeze(2) if input.dim() == 3 else input.flatten(2, 3) if input.dim() == 5 else input
    output, _, _ = call("instance_norm", planes, weight, bias, style, eps, slope)
    if input.dim() == 3:
        return output.squeeze(2)
    return output.unflatten(2, input.shape[2:4]) if input.dim() == 5 else output


class InstanceNorm2d(nn.InstanceNorm2d):
    """:func:`instance_norm` as a module: a ``torch.nn.InstanceNorm2d`` with the same arguments and state, and two more.

    With ``track_running_stats`` torch's own implementation runs, and then the activation.
    """

    def __init__(self, *args: Any, activation: str | None = None, leaky_slope: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slope_of(activation, leaky_slope)
        self.activation = activation
        self.leaky_slope = leaky_slope

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        if self.track_running_stats:
            output: Tensor = super()._apply_instance_norm(input)  # type: ignore[no-untyped-call]
            return activated(output, self.activation, self.leaky_slope)
        return instance_norm(
            input, self.weight, self.bias, self.eps, activation=self.activation, leaky_slope=self.leaky_slope
        )

    def extra_repr(self) -> str:
        shape: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return shape + _activation_repr(self.activation, self.leaky_slope)


class ConditionalInstanceNorm2d(nn.Module):
    """:func:`instance_norm` with a weight and a bias for each of ``num_styles`` styles, 1 and 0 to begin with."""

    def __init__(
        self,
        num_features: int,
        num_styles: int,
        eps: float = 1e-5,
        *,
        activation: str | None = None,
        leaky_slope: float = 0.01,
    ) -> None:
        super().__init__()
        slope_of(activation, leaky_slope)
        self.num_features, self.num_styles, self.eps = num_features, num_styles, eps
        self.activation, self.leaky_slope = activation, leaky_slope
        self.weight = nn.Parameter(torch.ones(num_styles, num_features))
        self.bias = nn.Parameter(torch.zeros(num_styles, num_features))

    def forward(self, input: Tensor, style: Tensor) -> Tensor:
        """``[N, C, H, W], [N] -> [N, C, H, W]``."""
        how: dict[str, Any] = {"activation": self.activation, "leaky_slope": self.leaky_slope}
        return instance_norm(input, self.weight, self.bias, self.eps, style=style, **how)

    def extra_repr(self) -> str:
        shape = f"{self.num_features}, num_styles={self.num_styles}, eps={self.eps}"
        return shape + _activation_repr(self.activation, self.leaky_slope)


def _activation_repr(activation: str | None, leaky_slope: float) -> str:
    if activation is None:
        return ""
    return f", activation={activation!r}" + (f", leaky_slope={leaky_slope}" if activation == "leaky_relu" else "")


@register_fake("instance_norm")
def _(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, style: Tensor | None, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean = input.new_empty(input.shape[:2], dtype=torch.float64)
    return empty_map(input, input.shape, is_channels_last(input)), mean, torch.empty_like(mean)


@register_fake("instance_norm_backward")
def _(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    style: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    to_input = empty_map(input, input.shape, is_channels_last(input))
    to_weight, to_bias = (input.new_empty(0) if t is None else t.new_empty(t.shape) for t in (weight, bias))
    return to_input, to_weight, to_bias


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.eps, ctx.slope = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # of those: zeros that nobody reads
    ctx.save_for_backward(*tensors, *output[1:])


def _instance_norm_backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
    if grad is None:
        return (None,) * 6
    input, weight, bias, style, mean, rstd = ctx.saved_tensors
    to_input, to_weight, to_bias = call(
        "instance_norm_backward", grad, input, weight, bias, style, mean, rstd, ctx.eps, ctx.slope
    )
    return to_input, None if weight is None else to_weight, None if bias is None else to_bias, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, _, ctx.eps, ctx.slope = inputs
    ctx.save_for_backward(*tensors)


def _instance_norm_double_backward(ctx: Any, *grads: Tensor) -> Any:
    grad, input, weight, bias, style = ctx.saved_tensors
    gradients = instance_norm_double_backward(grads, grad, input, weight, bias, style, ctx.eps, ctx.slope)
    return *gradients, *((None,) * 6)  # bias to slope: the bias moves the activation's kink alone


register_autograd("instance_norm", _instance_norm_backward, _save_forward, images=(0, 3))
register_autograd("instance_norm_backward", _instance_norm_double_backward, _save_backward)
