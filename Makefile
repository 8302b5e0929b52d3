# Every target sets up what it needs below .venv/ and build/: a Python, a C++ compiler and a package registry will do.

PYTHON ?= python3
# versions of the development environment; the library itself runs with every torch from 2.11 on
TORCH ?= 2.14.1
TORCHVISION ?= 0.29.1
# torches that `make test-abi` runs one and the same wheel with
ABI_TORCHES ?= 2.13.0 2.14.1
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
PYTEST_FLAGS ?= -q -n $(JOBS) --timeout 600

# CUDA=1 or CUDA=0 decides whether nvcc is used. Unset, in-place builds use it on machines with a GPU, wheels wherever
# there is an nvcc.
cuda_switch := $(patsubst 0,OFF,$(patsubst 1,ON,$(CUDA)))
BUILD_CUDA = $(or $(FASTVISION_CUDA),$(cuda_switch),$(if $(shell command -v nvidia-smi),AUTO,OFF))
WHEEL_CUDA = $(or $(FASTVISION_CUDA),$(cuda_switch),AUTO)
# GPUs named for one build do not stay for the next one in the same folder
cmake_flags := $(if $(CMAKE_CUDA_ARCHITECTURES),-DCMAKE_CUDA_ARCHITECTURES="$(CMAKE_CUDA_ARCHITECTURES)",-UCMAKE_CUDA_ARCHITECTURES)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
PIP := .venv/bin/python -m pip --disable-pip-version-check
ENV := .venv/.torch-$(TORCH)
CPP = $(shell find csrc -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu')

# $(call cmake,<folder below build>,<install prefix>,<options>)
cmake = .venv/bin/cmake -S . -B build/$(1) -G Ninja --log-level=STATUS \
	  -DCMAKE_MAKE_PROGRAM=$(CURDIR)/.venv/bin/ninja -DPython_EXECUTABLE=$(CURDIR)/.venv/bin/python $(3) \
	  | sed -n '/fastvision:/p' && \
	.venv/bin/cmake --build build/$(1) && .venv/bin/cmake --install build/$(1) --prefix $(2) >/dev/null

.PHONY: help env build emulated emulated-asan cpu-asan test test-cpu test-emulated test-emulated-rest test-instrument test-asan \
  test-asan-cpu test-abi wheel demo lint format bench bench-gpu test-gpu clean

help:  ## this list
	@echo "make TARGET [PYTHON=python3] [TORCH=$(TORCH)] [CUDA=1|0] [CMAKE_CUDA_ARCHITECTURES=90-real] [JOBS=$(JOBS)]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(ENV)  ## .venv with torch and everything the other targets need
# facenet-pytorch: a second opinion for the face detector, which needs requests and tqdm; what it pins is older than this project's torch.
# The .pth line makes the source tree importable from anywhere, as an editable install does, with no build step.
$(ENV): pyproject.toml scripts/dependencies.py
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python scripts/dependencies.py build run test $(if $(TORCHVISION),demo) dev >.venv/requirements.txt
	$(PIP) install --quiet "torch==$(TORCH)" $(if $(TORCHVISION),"torchvision==$(TORCHVISION)") \
	  -r .venv/requirements.txt requests tqdm
	$(PIP) install --quiet --no-deps facenet-pytorch==2.6.0
	@echo "$(CURDIR)" >"$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fastvision-source.pth"
	@rm -f .venv/.torch-* && touch $@

build: $(ENV)  ## fastvision/_C*.so in the source tree
	@$(call cmake,native,.,-DFASTVISION_CUDA=$(BUILD_CUDA) $(cmake_flags))

emulated: $(ENV)  ## fastvision/_C_emulated*.so: the CUDA kernels compiled for the host, a test instrument
	@$(call cmake,emulated,.,-DFASTVISION_EMULATED=ON)

emulated-asan: $(ENV)  ## the same with sanitizers, in build/asan/site
	@$(call cmake,asan,build/asan/site,-DFASTVISION_EMULATED=ON -DFASTVISION_SANITIZE=ON)

cpu-asan: $(ENV)  ## the CPU kernels with sanitizers, in build/asan-cpu/site
	@$(call cmake,asan-cpu,build/asan-cpu/site,-DFASTVISION_CUDA=OFF -DFASTVISION_SANITIZE=ON)

test: test-cpu test-emulated-rest test-instrument test-asan  ## all tests that need no GPU

test-cpu: build
	FASTVISION_BACKEND=native .venv/bin/pytest $(PYTEST_FLAGS) tests

test-emulated: emulated
	FASTVISION_BACKEND=emulated .venv/bin/pytest $(PYTEST_FLAGS) tests/ops tests/test_registry.py

# the others run under the sanitizers, with the same kernels
test-emulated-rest: emulated
	FASTVISION_BACKEND=emulated .venv/bin/pytest $(PYTEST_FLAGS) -m slow tests/ops
	FASTVISION_BACKEND=emulated .venv/bin/pytest $(PYTEST_FLAGS) tests/test_registry.py

test-instrument: $(ENV)
	.venv/bin/pytest $(PYTEST_FLAGS) csrc/emulation/tests

test-asan: emulated-asan
	scripts/test_sanitized.sh build/asan emulated $(PYTEST_FLAGS)

test-asan-cpu: cpu-asan  ## the op tests of the CPU kernels under sanitizers, which `make test` leaves out
	scripts/test_sanitized.sh build/asan-cpu native $(PYTEST_FLAGS)

# in the folder of `make build`, whose objects it takes as they are
wheel: $(ENV)  ## dist/fastvision-*.whl
	rm -rf dist && mkdir -p build
	FASTVISION_CUDA=$(WHEEL_CUDA) SKBUILD_BUILD_DIR=build/native CMAKE_ARGS='$(cmake_flags)' \
	  $(PIP) wheel -v --no-build-isolation --no-deps -w dist . >build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@grep -E '(-- fastvision:|warning:)' build/wheel.log; ls -l dist

test-abi: wheel  ## one wheel file, the op tests under each torch of ABI_TORCHES
	.venv/bin/python scripts/test_abi.py dist/fastvision-*.whl --torch $(ABI_TORCHES) --jobs $(JOBS)

demo: build  ## finds the faces in a photograph, draws them, says how long it took
	.venv/bin/python -m examples.demo

lint: $(ENV)  ## formatting, types and file sizes
	@failed=""; \
	try() { echo "+ $$(basename "$$1")"; "$$@" || failed+=" $$(basename $$1)"; }; \
	try .venv/bin/ruff check .; \
	try .venv/bin/ruff format --check .; \
	try .venv/bin/mypy --strict fastvision; \
	try .venv/bin/clang-format --dry-run -Werror $(CPP); \
	try .venv/bin/python scripts/check_large_files.py; \
	test -z "$$failed" || { echo "lint failed:$$failed"; exit 1; }

format: $(ENV)  ## rewrites what lint would complain of, where a tool can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(CPP)

.venv/.bench: $(ENV)
	.venv/bin/python scripts/dependencies.py bench >.venv/requirements-bench.txt
	$(PIP) install --quiet "torch==$(TORCH)" -r .venv/requirements-bench.txt
	touch $@

bench: build .venv/.bench  ## times every op against its rivals on the CPU
	.venv/bin/python -m benchmarks $(BENCH_FLAGS)

bench-gpu:  ## times every op on the GPU, with the python3 of the machine; offline
	PYTHON=$(PYTHON) scripts/test_gpu.sh bench

test-gpu:  ## op tests, compute-sanitizer and timings on the GPU, with the python3 of the machine; offline
	PYTHON=$(PYTHON) scripts/test_gpu.sh all

clean:  ## all that was built or installed here
	rm -rf .venv build dist fastvision/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
