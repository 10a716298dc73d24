"""What the conversion benchmark makes of its finished parts."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from conversions import Part, Run, finish, kept, parts, rows_of


def finished(folder: Path, but: Part | None = None) -> Run:
    """All parts of lstm done; every conversion took 3 s and its ranges 1 s, 2 s by hand."""
    run = Run("short", 15, folder)
    for part in parts(("lstm",)):
        said = {
            "cell": {"status": "ok", "convert_s": 3.0, "ranges_s": 1.0},
            "plain": {"plain_status": "ok", "plain_s": 2.0},
            "latency": {"onnxruntime-fp32": {"latency_ms": 0.1}},
        }.get(part.kind, {})
        if part != but:
            kept(run, part).write_text(json.dumps(said))
    return run


def test_every_cell_of_a_row_is_a_figure_or_has_its_reason(tmp_path: Path) -> None:
    rows = rows_of(finished(tmp_path), "lstm")
    assert len(rows) == 12
    assert all(row["latency_ms"] is not None or row["latency_reason"] for row in rows)
    assert {(row["convert_ratio_plain"], row["time_ratio_plain"]) for row in rows} == {(1.5, 2.0)}
    assert len({tuple(row) for row in rows}) == 1, "one table"


def test_a_network_that_is_not_finished_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(finished(tmp_path, but=Part("latency", "lstm")), "lstm") == []


def test_a_rerun_goes_on_with_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = Part("plain", "lstm", "tflite", "int8")
    run, asked = finished(tmp_path, but=missing), []

    def carry(_: Run, part: Part) -> dict[str, str]:
        asked.append(part)
        return {"plain_status": "ok"}

    finish(run, parts(("lstm",)), carry)
    assert asked == [missing]
    assert kept(run, missing).exists()
    assert "1 of 1, 0 min left" in capsys.readouterr().err
