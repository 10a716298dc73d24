"""A few thousand of the cases of benchmarks/fuzz.py."""

from pathlib import Path

import pytest


def test_whatever_comes_over_the_wire_is_answered_or_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    import fuzz

    rows = [fuzz.campaign(surface, 1000, 0.0, seed=7) for surface, _ in fuzz.surfaces(tmp_path)]
    assert [row["surface"] for row in rows] == ["agent", "host", "contact", "signature"]
    assert all(row["refused"] is None or row["refused"] > 300 for row in rows)
