"""The tail of a mask head: deconvolution, ReLU and the map of one class, in one go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import call, register_autograd, register_fake, with_reference


@with_reference(reference.masks.mask_logits)
def mask_logits(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    class_weight: Tensor,
    class_bias: Tensor,
    labels: Tensor,
    *,
    sigmoid: bool = False,
) -> Tensor:
    """Each roi's mask of its own class: a 2 x 2 transposed convolution of stride 2, ReLU and a 1 x 1 convolution.

    Equal to the three layers followed by picking the map of each roi's label, but the maps of other classes are never
    computed. Nor is the hidden map stored on the CPU; on CUDA it is what cuDNN's convolution returns, in the dtype of
    ``features`` if ``weight`` has it too.

    Args:
        features: ``[R, C, H, W]``, one map a roi, any strides.
        weight: of ``ConvTranspose2d(C, O, 2, stride=2)``, ``[C, O, 2, 2]``.
        bias: its bias ``[O]``.
        class_weight: of ``Conv2d(O, K, 1)``, ``[K, O, 1, 1]`` or ``[K, O]``.
        class_bias: its bias ``[K]``.
        labels: ``[R]`` int64, the class of each roi in ``[0, K)``.
        sigmoid: probabilities instead of logits.

    Shapes:
        ``[R, C, H, W], [C, O, 2, 2], [O], [K, O], [K], [R] -> [R, 2 H, 2 W]`` in the dtype of ``features``; sums are
        float32, of float64 features float64. On CUDA the hidden map is what the layer itself would give: rounded where
        it is of a half type (and infinite beyond 65504 in float16), of TF32 products where torch allows them, in
        autocast's dtype inside autocast. Differentiable in all but ``labels``, any number of times; the backward
        computes the hidden map again.

    Raises:
        ValueError: wrong shapes, dtypes or devices.
        IndexError: a label outside ``[0, K)`` (on the CPU; on CUDA the roi's logits are zeros).

    Complexity:
        ``O(R H W C O)``; memory beside the output: ``O(H W C)`` a thread, on CUDA the hidden map, ``O(R H W O)``.

    Reference:
        He et al. 2017, "Mask R-CNN", figure 4; ``mask_head.conv5_mask`` and ``mask_fcn_logits`` of torchvision.
    """
    if class_weight.dim() == 4 and class_weight.shape[2:] == (1, 1):
        class_weight = class_weight[:, :, 0, 0]
    logits = call("mask_logits", features, weight, bias, class_weight, class_bias, labels)
    return torch.sigmoid(logits) if sigmoid else logits


@register_fake("mask_logits")
def _(
    features: Tensor, weight: Tensor, bias: Tensor, class_weight: Tensor, class_bias: Tensor, labels: Tensor
) -> Tensor:
    rois, _, height, width = features.shape
    return features.new_empty([rois, 2 * height, 2 * width])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    """In plain PyTorch, so that it can be differentiated and traced, float32 or float64. grad: [R, 2H, 2W].

    Windows do not overlap: the hidden map is [R, H, W, O, 2, 2], a matrix product, and so are its gradients.
    """
    *floating, labels = ctx.saved_tensors
    dtype = torch.float64 if floating[0].dtype == torch.float64 else torch.float32
    features, weight, bias, class_weight, _ = (t.to(dtype) for t in floating)
    rois, _, height, width = features.shape
    grad = grad.to(dtype).reshape(rois, height, 2, width, 2).transpose(2, 3)  # [R, H, W, 2, 2]
    classes = torch.arange(class_weight.shape[0], device=labels.device)
    selection = (labels[:, None] == classes).to(dtype)  # [R, K]
    hidden = torch.einsum("rchw,coab->rhwoab", features, weight) + bias[:, None, None]
    rows = (selection @ class_weight)[:, None, None, :, None, None]
    to_hidden = torch.where(hidden > 0, grad[:, :, :, None] * rows, 0)
    grads = (
        torch.einsum("rhwoab,coab->rchw", to_hidden, weight),
        torch.einsum("rchw,rhwoab->coab", features, to_hidden),
        to_hidden.sum((0, 1, 2, 4, 5)),
        selection.T @ torch.einsum("rhwab,rhwoab->ro", grad, hidden.relu()),
        selection.T @ grad.sum((1, 2, 3, 4)),
    )
    wanted = ctx.needs_input_grad[:5]
    return *(g.to(t.dtype) if w else None for g, t, w in zip(grads, floating, wanted, strict=True)), None


register_autograd("mask_logits", _backward, _save)
