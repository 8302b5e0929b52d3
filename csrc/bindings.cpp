// The Python module holds what touches no tensor's memory: tensors go through the dispatcher.
#include <pybind11/pybind11.h>

#include "common/free_blocks.h"
#include "common/simd.h"
#include "common/stream.h"
#include "memoize.h"

#ifndef FASTVISION_MODULE
#ifdef FASTVISION_EMULATION
#define FASTVISION_MODULE _C_emulated
#else
#define FASTVISION_MODULE _C
#endif
#endif

#ifndef FASTVISION_CUDA_ARCHITECTURES
#define FASTVISION_CUDA_ARCHITECTURES ""
#endif

namespace py = pybind11;

static py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
#ifdef FASTVISION_EMULATION
  info["backend"] = "emulated";
#else
  info["backend"] = "native";
#endif
#ifdef FASTVISION_WITH_CUDA
  info["cuda"] = true;
#else
  info["cuda"] = false;
#endif
  info["cuda_architectures"] = FASTVISION_CUDA_ARCHITECTURES;
  info["torch_abi"] = "2.11";
  info["cpu_capability"] = fastvision::cpu_capability();
  info["streamed_bytes"] = fastvision::Stream::large();
  return info;
}

PYBIND11_MODULE(FASTVISION_MODULE, m) {
  m.doc() = "Compiled kernels of fastvision; importing it registers torch.ops.fastvision.*";
  m.def("build_info", &build_info, "What this library was built with, and which of its CPU kernels run here.");
  m.def("empty_cache", &fastvision::empty_cache, "Unmaps what large CPU outputs and scratch memory left behind.");
  m.def("memoize", &fastvision::memoize, "A function of tensors' sizes that remembers up to `most` of its answers.");
}
