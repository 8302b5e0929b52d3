// A Python function of tensors' sizes that remembers its answers.
#pragma once

#include <pybind11/pybind11.h>

namespace fastvision {

// memoize(function, most, tensor_types, unreadable): a callable of positional arguments that gives
// function(*arguments), and keeps up to `most` answers; one more, and all are forgotten. Of tensors it sees dtype, kind
// of device, sizes and strides, and function may look at no more. Tensors of other types than these, and arguments that
// are neither numbers nor sequences of them nor None, are answered anew each time.
//
// tensor_types: classes whose instances torch's DLPack exchange can read; they are read in 40 ns where their Python
// attributes take ten times that, which a layer on a GPU feels. Without an exchange nothing is remembered. Python's
// garbage collector does not see what is remembered, nor `function`. While `unreadable()` is not False, as inside of
// torch's transforms, whose tensors the exchange cannot read, all is answered anew.
pybind11::object memoize(pybind11::function function, size_t most, pybind11::tuple tensor_types,
                         pybind11::function unreadable);

}  // namespace fastvision
