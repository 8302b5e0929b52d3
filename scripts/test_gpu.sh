#!/usr/bin/env bash
# On a machine with a GPU: builds in place with the machine's own Python, runs the op tests on CUDA, a selection of them
# under compute-sanitizer, and the benchmarks. Nothing is downloaded. Argument: build, test, sanitize, bench or all.
#   PYTHON    python with torch >= 2.11, pybind11, pytest, hypothesis (default python3)
#   SELECTION pytest -k expression for compute-sanitizer
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
phase=${1:-all}
selection=${SELECTION:-float32 or gradcheck}

facts=$("$python" -c '
try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("this python has no torch; PYTHON=... names another") from None
if not torch.cuda.is_available():
    raise SystemExit("torch finds no GPU here")
major, minor = torch.cuda.get_device_capability()
name = torch.cuda.get_device_name().replace(" ", "-").lower()
print(f"{major}{minor}-real {name}")')
read -r architecture gpu <<<"$facts"
echo "== $gpu, $architecture, $("$python" -c 'import torch; print("torch", torch.__version__)')"

build() {
  local generator=()
  command -v ninja >/dev/null && generator=(-G Ninja)
  cmake -S . -B build/gpu "${generator[@]}" -DPython_EXECUTABLE="$(command -v "$python")" -DFASTVISION_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="${CMAKE_CUDA_ARCHITECTURES:-$architecture}"
  cmake --build build/gpu --parallel
  cmake --install build/gpu --prefix . >/dev/null
}

run_tests() {
  FASTVISION_BACKEND=native FASTVISION_TEST_DEVICE=cuda \
    "$@" "$python" -m pytest -q -p no:cacheprovider tests/ops tests/test_registry.py "${pytest_flags[@]}"
}

sanitize() {
  local probe='import torch; torch.ones(1, device="cuda").add_(1).item()'
  if ! compute-sanitizer --error-exitcode 1 "$python" -c "$probe" >build/gpu/probe.log 2>&1; then
    echo "== compute-sanitizer does not run on this machine, left out:"
    grep -m 3 -iE 'error|not supported|not found' build/gpu/probe.log || true
    [[ ${FASTVISION_REQUIRE_SANITIZER:-0} == 0 ]]
    return
  fi
  # only our kernels, where this version of the tool takes the filter
  local filter=(--kernel-name kernel_substring=fastvision)
  compute-sanitizer "${filter[@]}" true >/dev/null 2>&1 || filter=()
  pytest_flags=(-k "($selection) and not compile and not opcheck and not slow")
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer, $tool: $selection"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      run_tests compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 "${filter[@]}"
  done
}

pytest_flags=()
[[ $phase != build && $phase != all ]] || build
if ! compgen -G "fastvision/_C.*.so" >/dev/null; then build; fi
[[ $phase != test && $phase != all ]] || run_tests
[[ $phase != sanitize && $phase != all ]] || sanitize
if [[ $phase == bench || $phase == all ]]; then
  mkdir -p benchmarks/results
  "$python" -m benchmarks --device cuda --json "benchmarks/results/$gpu.json"
fi
