#!/usr/bin/env bash
# The emulated op tests under AddressSanitizer and UndefinedBehaviorSanitizer. Arguments go to pytest.
#
# build/asan/site/fastvision is the package as links to the source tree, beside the sanitized library: the plain
# _C_emulated of the source tree stays what it is.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
site=build/asan/site/fastvision
find "$site" -type l -delete
for entry in fastvision/*; do
  case $entry in *.so | */__pycache__) ;; *) ln -s "../../../../$entry" "$site/" ;; esac
done

cxx=${CXX:-g++}
reports=build/asan/report
rm -f "$reports".*
status=0
sanitized() {
  PYTHONPATH=$root/build/asan/site FASTVISION_BACKEND=emulated \
    LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:log_path=$root/$reports \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$root/$reports "$@"
}
cd /  # else python -c imports the source tree
sanitized "$root/.venv/bin/python" -c '
from fastvision import _library
assert _library.BACKEND == "emulated" and "build/asan/site" in _library.MODULE.__file__, _library.MODULE'
cd "$root"
sanitized .venv/bin/pytest -m "not slow" "$@" tests/ops || status=$?
# every process that uses fibers logs one warning; a report has one of these two
if grep -lE 'ERROR: |runtime error: ' "$reports".* >/dev/null 2>&1; then
  cat "$reports".*
  exit 1
fi
exit "$status"
