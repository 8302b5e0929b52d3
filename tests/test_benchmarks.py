"""The benchmarks' own machinery: what is timed, how outputs are compared, what is written. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import scaling
from benchmarks.nms import OPENCV, same_indices
from benchmarks.workload import OURS, TORCHVISION, Options, Verdict, Workload, close, rate_of, run
from fastvision.testing import Work
from fastvision.testing.timing import Ceiling, Timing, compare, machine_facts

LIMITS = Ceiling(copy_gbps=10.0, sgemm_gflops=100.0)


def _sum_to(count: int) -> int:
    return sum(range(count))


class TestCompare:
    def test_ranks_contenders_by_their_work(self) -> None:
        timings = compare({"short": lambda: _sum_to(10), "long": lambda: _sum_to(20_000)}, budget_s=0.05)
        assert list(timings) == ["short", "long"]
        assert timings["long"].ratio_to(timings["short"]) > 5  # 2000 times the work
        for timing in timings.values():
            low, high = timing.quartiles
            assert 0 < low <= timing.median <= high
            assert timing.n >= 3
            assert timing.spread >= 0

    def test_short_calls_are_repeated_within_a_round(self) -> None:
        assert compare({"nothing": lambda: None}, budget_s=0.001)["nothing"].calls > 100

    def test_takes_turns_and_lets_slow_ones_go(self) -> None:
        turns: list[str] = []

        def slow() -> None:
            turns.append("slow")
            _sum_to(2_000_000)

        contenders = {"fast": lambda: turns.append("fast"), "other": lambda: None, "slow": slow}
        timings = compare(contenders, budget_s=0.1, min_rounds=2)
        assert 2 <= timings["slow"].n < timings["fast"].n
        assert timings["slow"].calls == 1
        # between any two rounds of the slow one, once all are warm, the fast one has a turn
        changes = [a for a, b in pairwise(turns) if a != b]
        assert changes.count("slow") >= timings["slow"].n - 1

    def test_stops_when_one_is_left(self) -> None:
        timings = compare({"fast": lambda: None, "slow": lambda: _sum_to(2_000_000)}, budget_s=0.02, min_rounds=3)
        assert timings["fast"].n == timings["slow"].n

    def test_ratio_is_the_median_over_common_rounds(self) -> None:
        ours = Timing((1.0, 1.0, 2.0, 50.0), calls=1)
        theirs = Timing((2.0, 4.0, 6.0), calls=1)
        assert theirs.ratio_to(ours) == 3.0


def test_machine_facts_name_the_machine() -> None:
    facts = machine_facts()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["cpu"]


class TestEquality:
    def test_indices(self) -> None:
        ours = torch.tensor([3, 1, 2])
        assert same_indices(TORCHVISION, torch.tensor([3, 1, 2]), ours) == Verdict("equal")
        assert same_indices(TORCHVISION, torch.tensor([1, 3, 2]), ours) == Verdict("same set, other order", ok=False)
        assert same_indices(OPENCV, ours.flip(0).numpy(), ours) == Verdict("same set, other order")
        assert not same_indices(TORCHVISION, torch.tensor([3, 1]), ours).ok
        assert not same_indices(OPENCV, torch.tensor([3, 1, 4]), ours).ok

    def test_a_library_that_rounds_otherwise_may_differ_a_little(self) -> None:
        ours = torch.arange(1000)
        assert same_indices(OPENCV, ours[:-1], ours) == Verdict("1 of 1000 differ")
        assert not same_indices(TORCHVISION, ours[:-1], ours).ok

    def test_tensors(self) -> None:
        check = close(0.0, 1e-3)
        x = torch.zeros(2, 3)
        assert check("", x, x) == Verdict("equal")
        assert check("", x + 5e-4, x) == Verdict("max diff 5e-04")
        assert not check("", x + 1e-2, x).ok
        assert not check("", x[:1], x).ok
        assert not check("", (x, x * float("nan")), (x, x)).ok


class TestRun:
    def test_finds_the_wrong_and_leaves_out_the_broken(self) -> None:
        def broken() -> Any:
            raise RuntimeError("no such kernel\nand more")

        contenders = {
            OURS: lambda: torch.ones(3),
            "right": lambda: torch.ones(3),
            "wrong": lambda: torch.zeros(3),
            "broken": broken,
        }
        result = run(_tiny(contenders), Options(quick=True))
        rows = {row.label: row for row in result.rows}
        assert list(rows) == [OURS, "right", "wrong"]
        assert rows["right"].verdict == Verdict("equal")
        assert not rows["wrong"].verdict.ok
        assert result.skipped == {"broken": "RuntimeError: no such kernel"}
        assert not result.ok
        assert rows["right"].met is None

    def test_a_failure_of_ours_is_a_result(self) -> None:
        def fails() -> Any:
            raise RuntimeError("not today")

        result = run(_tiny({OURS: fails, "other": lambda: torch.ones(1)}), Options(quick=True))
        assert result.failed == {OURS: "RuntimeError: not today"}
        assert not result.rows and not result.ok

    def test_ours_must_come_first(self) -> None:
        with pytest.raises(ValueError, match="first contender"):
            run(_tiny({"other": lambda: torch.ones(1)}), Options(quick=True))

    def test_rate_is_the_nearer_limit(self) -> None:
        rate = rate_of(Work(bytes=10**9, flops=10**9), 1.0, LIMITS)
        assert rate is not None
        assert (rate.unit, rate.value, rate.share) == ("GB/s", 1.0, 0.1)
        rate = rate_of(Work(bytes=10**9, flops=90 * 10**9), 1.0, LIMITS)
        assert rate is not None
        assert (rate.unit, rate.value, rate.share) == ("GFLOP/s", 90.0, 0.9)


def _tiny(contenders: dict[str, Any], **kwargs: Any) -> Workload:
    return Workload("tiny", "ones", contenders, close(0.0, 0.0), **kwargs)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One family of one workload, and a machine whose ceiling is known."""

    def workloads(options: Options) -> Iterator[Workload]:
        contenders = {OURS: lambda: torch.ones(3), "other": lambda: torch.ones(300).narrow(0, 0, 3)}
        yield _tiny(
            contenders,
            work=Work(12, 0),
            targets={"other": 1e9},
            columns=lambda output: {"K": len(output)},
            skipped={"third": "too slow"},
        )

    monkeypatch.setattr(command, "FAMILIES", {"tiny": workloads})
    monkeypatch.setattr(command, "ceiling", lambda device: LIMITS)


@pytest.mark.usefixtures("tiny")
class TestCommand:
    def test_writes_a_table_json_and_a_plot(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("matplotlib")
        table, plot = tmp_path / "out.json", tmp_path / "out.png"
        assert command.main(["tiny", "--quick", "--json", str(table), "--plot", str(plot)]) == 0
        printed = capsys.readouterr().out
        assert "targets: 0 met, 1 missed" in printed
        assert "ones: third left out: too slow" in printed
        document = json.loads(table.read_text())
        assert document["targets"] == {"met": 0, "missed": 1}
        assert document["machine"]["torch"] == torch.__version__
        (result,) = document["results"]
        assert result["columns"] == {"K": 3}
        ours, other = result["contenders"]
        assert (ours["label"], other["label"], other["output"], other["met"]) == (OURS, "other", "equal", False)
        assert ours["ratio"] == 1 and other["median_s"] > 0
        assert plot.read_bytes().startswith(b"\x89PNG")

    def test_a_wrong_output_fails(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        wrong = _tiny({OURS: lambda: torch.ones(1), "other": lambda: torch.zeros(1)})
        monkeypatch.setattr(command, "FAMILIES", {"tiny": lambda options: iter([wrong])})
        assert command.main(["--quick"]) == 1
        assert "WRONG" in capsys.readouterr().out

    @pytest.mark.parametrize("arguments", (["nothing"], ["--threads", "0"], ["--device", "tpu"]))
    def test_bad_arguments(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as raised:
            command.main(arguments)
        assert raised.value.code == 2


def test_the_real_families_are_well_formed() -> None:
    """The first workload of each family: ours comes first, targets name contenders or optional rivals."""
    for family in ("nms", "boxes", "proposals", "masks", "style", "upsample"):
        workload = next(command.FAMILIES[family](Options(quick=True)))
        assert workload.family == family
        assert next(iter(workload.contenders)) == OURS
        ours = workload.contenders[OURS]()
        for label, call in workload.contenders.items():
            assert workload.equal(label, call(), ours).ok, label


def test_scaling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Small sizes of one op: the table, the JSON and the plot."""
    written, plot = tmp_path / "scaling.json", tmp_path / "scaling.png"
    arguments = ["roi_align forward NCHW", "--largest", "30", "--json", str(written), "--plot", str(plot)]
    assert scaling.main(arguments) == 0
    assert "worst step" in capsys.readouterr().out and plot.stat().st_size > 1000
    over_rois, over_channels = json.loads(written.read_text())["series"]
    assert [p["size"] for p in over_rois["points"]] == [10, 30] and over_channels["unit"] == "channels"
    assert all(p["seconds"] > 0 for p in over_rois["points"])
    first, second = over_rois["points"]
    assert first["step"] is None and second["step"] == pytest.approx(second["seconds"] / first["seconds"] / 3)


def test_extra_memory_is_seen() -> None:
    """64 MB of scratch beside an output of 4 bytes."""
    extra = scaling.extra_memory_mb(lambda: torch.ones(2**24).sum())
    assert extra is None or 60 < extra < 80
