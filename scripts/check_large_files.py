"""Fails if a file of the repository, committed or about to be, is larger than the limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIMIT_KB = 500

listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True
)
if listed.returncode != 0:
    print("check_large_files: not a git checkout, nothing to check")
    sys.exit(0)
paths = [Path(name) for name in listed.stdout.split("\0") if name]
large = [(path.stat().st_size // 1024, path) for path in paths if path.is_file()]
large = [(size, path) for size, path in large if size > LIMIT_KB]
for size, path in large:
    print(f"{path}: {size} kB, more than {LIMIT_KB} kB")
sys.exit(bool(large))
