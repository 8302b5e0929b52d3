"""Layers that are not much more work for a CPU than a Function in Python, and when that pays.

A Function stands between torch's autograd and a kernel of ours, and takes 50 to 200 us, forward and backward together.
Read from 900 layers drawn at random whose gradients are torch's, in float32, on a processor with AVX2; almost half of
the depthwise ones in channels_last had come to less than 0.95x. Processors with other instructions follow untimed.
"""

from __future__ import annotations

from fastvision.ops.upsample.kernel_choice.layer import SMALL_RESULT, Layer

_MANY_PRODUCTS = 20_000_000
_MORE_PRODUCTS = 60_000_000  # were not timed for this, and make a Function a small part
_MANY_PLACES = 10_000  # of the output


def is_light(layer: Layer) -> bool:
    """Whether a Function in Python may take longer than what it could save."""
    return layer.multiplications < _MANY_PRODUCTS and layer.result_bytes < SMALL_RESULT


def is_worth_a_function(layer: Layer) -> bool:
    """Whether a forward of ours saves more than that, of a layer whose gradients torch computes."""
    if layer.multiplications >= _MORE_PRODUCTS or layer.result_bytes >= SMALL_RESULT:
        return True
    width, places = layer.input[3], layer.results // layer.outputs
    if layer.depthwise and layer.outputs == layer.channels:
        if layer.channels_last:  # many short rows of few channels, over which torch takes longest
            return layer.channels * width <= 480 and places > _MANY_PLACES
        return layer.channels <= 16 or width <= 10  # which leave oneDNN's vectors or its tiles along a row empty
    if layer.dense and layer.outputs == layer.channels:
        return True  # it may be zero off the diagonal, which torch cannot know
    if max(layer.stride) == 1:  # what torch is best at, but for vectors of outputs with most lanes empty
        return layer.outputs <= 3 and max(layer.kernel) > 2
    if layer.channels_last:  # there is nothing to turn, but lanes stay empty, or many taps are added up
        return layer.outputs <= 4 if layer.dense else max(layer.kernel) > 3
    return layer.dense and layer.taps < 8
