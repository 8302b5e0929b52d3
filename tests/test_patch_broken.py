"""``fastvision.patch("torchvision")`` where torchvision does not load, or is not there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from data_requirements import require_module

import fastvision


def run(script: str, *paths: Path) -> str:
    """Runs Python on its own; what it printed."""
    root = Path(fastvision.__file__).parents[1]
    path = ", ".join(repr(str(p)) for p in (*paths, root))
    script = f"import sys; sys.path[:0] = [{path}]\n" + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_replaces_compiled_ops_that_failed_to_load() -> None:
    require_module("torchvision")
    printed = run(
        """
        import torch
        load = torch.ops.load_library
        def broken(path):
            if "torchvision" in str(path):
                raise OSError("cannot be opened")
            return load(path)
        torch.ops.load_library = broken
        import fastvision
        boxes, scores = torch.tensor([[0., 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]]), torch.tensor([.5, .9, .1])
        with fastvision.patch("torchvision"):
            import torchvision
            print(torchvision.extension._has_ops())
            print(torchvision.ops.nms(boxes, scores, 0.5).tolist())
            model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
                weights=None, weights_backbone=None, box_score_thresh=0.0
            ).eval()
            print(len(model([torch.rand(3, 64, 64)])[0]["boxes"]) > 0)
        try:
            torchvision.ops.nms(boxes, scores, 0.5)
        except RuntimeError:
            print("undone")
        """
    )
    assert printed.splitlines() == ["False", "[1, 2]", "True", "undone"]


PATCH_AND_PRINT_ERROR = """
    import fastvision
    try:
        fastvision.patch("torchvision")
    except ImportError as error:
        print(error)
"""


def test_torchvision_that_cannot_be_imported(tmp_path: Path) -> None:
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('undefined symbol: x')")
    printed = run(PATCH_AND_PRINT_ERROR, tmp_path)
    assert "torchvision cannot be imported (OSError: undefined symbol: x); install the release" in printed


def test_torchvision_that_is_not_installed() -> None:
    script = """
    import importlib.abc
    class Nothing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "torchvision":
                raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    sys.meta_path.insert(0, Nothing())
    """
    printed = run(textwrap.dedent(script) + textwrap.dedent(PATCH_AND_PRINT_ERROR))
    assert "torchvision is not installed" in printed and "pip install torchvision" in printed
