"""One run of each kind of fault in each phase, as benchmarks/faults.py does them by the hundred."""

from pathlib import Path

import pytest
from ssh_server import needs_sshd


@needs_sshd
@pytest.mark.ssh
@pytest.mark.slow
def test_every_fault_in_every_phase_leaves_a_whole_release_and_a_free_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    import faults

    results = faults.campaign(range(len(faults.CELLS)), seed=20, hosts=2)
    table = faults.rows(results)
    assert [(row["fault"], row["phase"]) for row in table] == list(faults.CELLS)
    assert [row for row in table if row["broken"] or row["stuck_locks"]] == [], results
    assert sum(row["operations_failed"] for row in table) >= 5, "hardly a fault struck"
