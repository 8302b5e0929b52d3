"""Anchors to train on: a random sample with a share of positive ones."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_sample(
    labels: Tensor, num_samples: int, positive_fraction: float, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Random positive and negative anchors, at most ``positive_fraction`` of them positive.

    Too few positive ones are made up for by negative ones. What :func:`match_boxes` returns becomes labels by
    ``(matches + 1).clamp(min=-1)``.

    Args:
        labels: ``[A]``, any real dtype: 1 or more is positive, 0 negative, less than 0 neither.
        num_samples: how many in all.
        positive_fraction: share of positive ones, at most.
        generator: of random numbers, on the device of ``labels``; the same seed gives the same sample. Not for
            ``torch.compile(fullgraph=True)``, which serves calls without one.

    Shapes:
        ``[A] -> [P], [Q]`` int64 indices in random order, ``P + Q <= num_samples``. Not differentiable.

    Raises:
        ValueError: ``labels`` not one-dimensional, ``num_samples`` negative, ``positive_fraction`` not in [0, 1].

    Complexity:
        ``O(A)``.

    Reference:
        Girshick et al. 2014, section 2.3; Ren et al. 2015, section 3.1.3; the draws are those of torchvision's
        ``BalancedPositiveNegativeSampler``.
    """
    if labels.dim() != 1:
        raise ValueError(f"balanced_sample: expected labels of shape [A], got {list(labels.shape)}")
    if num_samples < 0 or not 0 <= positive_fraction <= 1:
        raise ValueError(
            "balanced_sample: expected num_samples >= 0 and positive_fraction in [0, 1], got "
            f"{num_samples} and {positive_fraction}"
        )
    positive = _shuffled(labels >= 1, generator)[: int(num_samples * positive_fraction)]
    # of slices, unlike of min(), torch.compile knows what to make where lengths depend on data
    return positive, _shuffled(labels == 0, generator)[: num_samples - positive.shape[0]]


def _shuffled(mask: Tensor, generator: torch.Generator | None) -> Tensor:
    indices = mask.nonzero()[:, 0]
    if generator is None:  # not passed on: torch.compile knows this form alone
        return indices[torch.randperm(indices.shape[0], device=indices.device)]
    return indices[torch.randperm(indices.shape[0], generator=generator, device=indices.device)]
