"""Transposed convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from fastvision import _eager, reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._autocast import is_any_autocast_enabled
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.ops.upsample.conv_transpose2d_gradients import conv_transpose2d_gradients
from fastvision.ops.upsample.kernel_choice import Kernel, Layer, Plan, parts, plan, remembered_plan
from fastvision.reference.upsample.conv_transpose2d import Activation, Pair, activate
from fastvision.reference.upsample.pair import to_pair


@with_reference(reference.upsample.conv_transpose2d)
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """Every input pixel adds the kernel, weighted with itself, to the output, ``stride`` pixels after its neighbour.

    ``choose_kernel`` decides by the shape whether torch's convolution or one of ours runs, and on the CPU
    ``choose_gradients`` the same of each gradient. Where torch computes both, it may compute a small layer altogether
    when a gradient is wanted and no activation is fused with it. On the CPU a dense layer whose kernels are zero off
    the diagonal (FCN's bilinear upsampling, as initialised) is found to be one and costs what a depthwise layer does;
    an infinite or NaN input, or gradient, then stays in its own channel, where the zeros of the others would make it
    NaN in all. Outside a map some of our kernels read zeros, which an infinite weight makes NaN, or in the weight's
    gradient an infinite input.

    Args:
        input: ``[N, C, H, W]``, or ``[C, H, W]`` without a batch, any strides; channels_last stays so.
        weight: ``[C, O / groups, kh, kw]``. Inside autocast it is cast with the input, as torch does.
        bias: ``[O]`` or None.
        stride, padding, output_padding, dilation: one number, or one for rows and one for columns, in pixels.
        groups: channels in and out are split into as many independent layers.
        activation: ``"relu"`` or ``"leaky_relu"``, applied in the same pass.
        negative_slope: of ``"leaky_relu"``.

    Shapes:
        ``[N, C, H, W] -> [N, O, H', W']`` with ``H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding +
        1``, in the dtype of ``input``. Differentiable in ``input``, ``weight`` and ``bias``, any number of times.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, an output_padding not below stride or dilation, an
            empty output, an unknown activation.

    Complexity:
        ``O(N C O / groups H W kh kw)``; memory beside input and output: one or two copies of the weights, and one of
        the input, with a row of outputs a thread, or up to 16 MB a thread. Gradients: one to three copies of the
        weights, and one of the maps where planes are turned to channels_last for torch, or depthwise layers in
        channels_last to planes.

    Reference:
        Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4; sub-pixel phases: Shi
        et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"; signature of
        ``torch.nn.functional.conv_transpose2d``.
    """
    planned = None
    if not is_compiling():  # whose sizes are no keys
        # as little as can be before a kernel has its turn: after a layer of 0.2 ms each line of Python finds cold
        # caches, and on a GPU a small layer takes less than 15 us
        planned = remembered_plan(input, weight, stride, padding, output_padding, groups, dilation)
        if planned.always_torch or not is_any_autocast_enabled():
            by_torch = planned.kernel == "torch" or (
                planned.torch_trains and _eager.wants_gradient((input, weight, bias))
            )
            if by_torch and activation is None and not (planned.own_gradients and _wants_own(input, weight, bias)):
                try:
                    return torch.conv_transpose2d(
                        input, weight, bias, stride, padding, output_padding, groups, dilation
                    )
                except RuntimeError:
                    if _fits(input, weight, bias, groups):
                        raise
            elif planned.kernel == "fastvision" and (activation is None or activation == "relu"):
                dtype = input.dtype
                alike = weight.dtype == dtype and (bias is None or bias.dtype == dtype)
                if alike and input.dim() == 4:
                    slope = 1.0 if activation is None else 0.0
                    return call("conv_transpose2d", input, weight, bias, planned.geometry, slope)
    geometry = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose2d(input, weight, bias, geometry, activation, negative_slope, planned)


def _conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[int | Pair, int | Pair, int | Pair, int, int | Pair],
    activation: Activation | None,
    negative_slope: float,
    planned: Plan | None,
) -> Tensor:
    """``planned``: for these arguments as they are."""
    if input.dim() == 3:
        return _conv_transpose2d(input[None], weight, bias, geometry, activation, negative_slope, None)[0]
    if activation is not None:
        _check_activation(activation)
    dtype = input.dtype
    input, weight, bias = _cast_together(input, weight, bias)
    groups = geometry[3]
    if planned is None or input.dtype != dtype:
        planned = (plan if is_compiling() else remembered_plan)(input, weight, *geometry)
    kernel: Kernel = planned.kernel
    if planned.torch_trains and activation is None and _eager.wants_gradient((input, weight, bias)):
        kernel = "torch"
    if not _fits(input, weight, bias, groups):
        kernel = "fastvision"  # which says so
    if kernel == "torch":
        if planned.own_gradients and _wants_own(input, weight, bias):
            stride, padding, output_padding, dilation, groups = parts(planned.geometry)
            output = _torch_with_own_gradients()(input, weight, bias, stride, padding, output_padding, groups, dilation)
        else:
            output = torch.conv_transpose2d(input, weight, bias, *geometry)
        return _activate(output, activation, negative_slope)
    if kernel == "product":
        flat = input.flatten(1) @ weight.flatten(1)  # [N, O kh kw]
        output = flat.view(-1, *weight.shape[1:])
        return _activate(output if bias is None else output + bias[:, None, None], activation, negative_slope)
    # the backward tells by the sign of an output on which side of zero the sum was; a negative slope turns it
    slope = 1.0 if activation is None else 0.0 if activation == "relu" else negative_slope
    if slope < 0:
        output = call("conv_transpose2d", input, weight, bias, planned.geometry, 1.0)
        return _activate(output, activation, slope)
    return call("conv_transpose2d", input, weight, bias, planned.geometry, slope)


def _wants_own(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether gradients are wanted that kernels of ours can be asked for, by a Function around torch's convolution."""
    return _eager.is_plain() and _eager.wants_gradient((input, weight, bias))


def _activate(fresh: Tensor, activation: Activation | None, negative_slope: float) -> Tensor:
    """In place: another map would be as dear as many a layer.

    But for transforms, whose tangents may be zeros that cannot be written to, and for ``leaky_relu`` with a gradient,
    which tells by the sign of what it is given, where ``relu`` keeps its result anyway.
    """
    if activation is None or _eager.is_transformed():
        return activate(fresh, activation, negative_slope)
    if activation == "relu":
        return fresh.relu_()
    if fresh.requires_grad:
        return activate(fresh, activation, negative_slope)
    return torch.nn.functional.leaky_relu_(fresh, negative_slope)


def _check_activation(activation: str | None) -> None:
    if activation not in (None, "relu", "leaky_relu"):
        raise ValueError(f'conv_transpose2d: expected activation None, "relu" or "leaky_relu", got {activation!r}')


def _fits(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> bool:
    alike = weight.dtype == input.dtype and weight.device == input.device
    return alike and (bias is None or (bias.dtype == weight.dtype and bias.shape == (weight.shape[1] * groups,)))


def _cast_together(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inside autocast all in its dtype, as torch's convolutions; elsewhere weights follow the input."""
    dtype, device = input.dtype, "cuda" if input.is_cuda else "cpu"
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    elif weight.dtype == dtype and (bias is None or bias.dtype == dtype):
        return input, weight, bias
    if not (input.is_floating_point() and weight.is_floating_point()):
        return input, weight, bias
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class ConvTranspose2d(nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` on :func:`conv_transpose2d`: the same arguments, parameters and state dict.

    Args:
        activation: keyword-only, ``"relu"`` or ``"leaky_relu"``, fused with the convolution.
        negative_slope: keyword-only, of ``"leaky_relu"``.
    """

    def __init__(
        self, *args: Any, activation: Activation | None = None, negative_slope: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        _check_activation(activation)
        self.activation, self.negative_slope = activation, negative_slope

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``[N, C, H, W]``; ``output_size``: which of the sizes that a convolution shrinks to the input's."""
        stride, padding, kernel, dilation = (
            to_pair(cast(Pair, p)) for p in (self.stride, self.padding, self.kernel_size, self.dilation)
        )
        extra = self._output_padding(input, output_size, list(stride), list(padding), list(kernel), 2, list(dilation))
        return conv_transpose2d(
            input,
            self.weight,
            self.bias,
            stride,
            padding,
            to_pair(extra),
            self.groups,
            dilation,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

    def extra_repr(self) -> str:
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return plain + (f", activation={self.activation!r}" if self.activation else "")


@register_fake("conv_transpose2d")
def _(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[int], negative_slope: float) -> Tensor:
    last = is_channels_last(input)
    stride, padding, output_padding, dilation, groups = parts(geometry)
    layer = Layer(
        input.shape, weight.shape, stride, padding, output_padding, groups, dilation, input.dtype, last, False
    )
    return empty_map(input, [input.shape[0], weight.shape[1] * groups, *layer.sides], last)


@cache
def _torch_with_own_gradients() -> Callable[..., Tensor]:
    return _eager.function_of(torch.ops.aten.conv_transpose2d.input, _backward_of_torch, _save_for_torch)


def _save_for_torch(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, stride, padding, output_padding, groups, dilation = inputs
    ctx.geometry = (*stride, *padding, *output_padding, *dilation, groups)
    ctx.has_bias = bias is not None
    ctx.save_for_backward(input, weight)


def _backward_of_torch(ctx: Any, grad: Tensor) -> Any:
    input, weight = ctx.saved_tensors
    return *conv_transpose2d_gradients(grad, input, weight, ctx.geometry, _needed(ctx)), *[None] * 5


def _needed(ctx: Any) -> tuple[bool, bool, bool]:
    input, weight, bias = ctx.needs_input_grad[:3]
    return input, weight, ctx.has_bias and bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, ctx.geometry, ctx.negative_slope = inputs
    ctx.has_bias = bias is not None
    # the sign of an output is that of the sum before it
    ctx.save_for_backward(input, weight, output if ctx.negative_slope != 1 else None)


def _backward(ctx: Any, grad: Tensor) -> Any:
    input, weight, output = ctx.saved_tensors
    if output is not None:
        grad = _before_activation(grad, output, ctx.negative_slope)
    return *conv_transpose2d_gradients(grad, input, weight, ctx.geometry, _needed(ctx)), None, None


def _before_activation(grad: Tensor, output: Tensor, negative_slope: float) -> Tensor:
    """As torch's own activations; of a NaN ``relu`` passes the gradient on, ``leaky_relu`` with its slope."""
    if negative_slope == 0:
        return torch.ops.aten.threshold_backward(grad, output, 0)
    return torch.ops.aten.leaky_relu_backward(grad, output, negative_slope, True)


register_autograd("conv_transpose2d", _backward, _save, images=(0,))
