#!/usr/bin/env bash
# The op tests under AddressSanitizer and UndefinedBehaviorSanitizer. Arguments: the folder of the sanitized build, its
# backend (emulated or native), and what goes to pytest.
#
# <folder>/site/fastvision is the package as links to the source tree, beside the sanitized library: the plain one of the
# source tree stays what it is.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$1 backend=$2
shift 2
site=$build/site/fastvision
find "$site" -type l -delete
for entry in fastvision/*; do
  case $entry in *.so | */__pycache__) ;; *) ln -s "../../../../$entry" "$site/" ;; esac
done

cxx=${CXX:-g++}
reports=$build/report
rm -f "$reports".*
status=0
sanitized() {
  PYTHONPATH=$root/$build/site FASTVISION_BACKEND=$backend \
    LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:log_path=$root/$reports \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$root/$reports "$@"
}
cd /  # else python -c imports the source tree
sanitized "$root/.venv/bin/python" -c '
import sys
from fastvision import _library
assert _library.BACKEND == sys.argv[1] and sys.argv[2] in _library.MODULE.__file__, _library.MODULE' "$backend" "$site"
cd "$root"
sanitized .venv/bin/pytest -m "not slow" "$@" tests/ops || status=$?
# every process that uses fibers logs one warning; a report has one of these two
if grep -lE 'ERROR: |runtime error: ' "$reports".* >/dev/null 2>&1; then
  cat "$reports".*
  exit 1
fi
exit "$status"
