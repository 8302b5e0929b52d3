// Registration of CUDA kernels; in emulation the same kernels serve the CPU key.
#pragma once

#include <torch/csrc/stable/library.h>

#include "common/launch.cuh"

#ifdef FASTVISION_EMULATION
#define FV_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m)
#else
#define FV_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(fastvision, CUDA, m)
#endif
