"""The lock by itself: ages do not follow the wall clock, and a holder that hangs loses it."""

import os
import signal
import time
from pathlib import Path

import pytest
from raw_agent import RawAgent

from edgec.targets.agent import lock
from edgec.targets.agent.lock import Lock
from edgec.targets.agent.wire import Failure


def test_age_is_right_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawAgent(tmp_path / "device") as agent:
        agent.ok("lock", owner="ann")
        monkeypatch.setattr(time, "time", lambda: 4e9)
        held = Lock(str(tmp_path / "device" / "lock")).holder()
        assert held is not None
        assert (held["owner"], held["pid"]) == ("ann", agent.process.pid)
        assert 0 <= held["age_s"] < 30


def test_holder_that_hangs_beyond_its_own_limit_loses_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawAgent(tmp_path / "device") as agent:
        agent.ok("lock", owner="ann")
        os.kill(agent.process.pid, signal.SIGSTOP)
        path = str(tmp_path / "device" / "lock")
        monkeypatch.setattr(lock, "LEAVING_S", 0.2)
        with pytest.raises(Failure, match="ann has been using"):
            Lock(path).take("bob")
        monkeypatch.setattr(lock, "GONE_S", -1.0)
        Lock(path).take("bob")
        assert agent.process.wait(5) == -signal.SIGKILL


def test_process_that_is_no_agent_is_never_killed(tmp_path: Path) -> None:
    """A number left in the file by an agent that has ended may be anybody's by now: here it is our own."""
    first = Lock(str(tmp_path / "lock"))
    first.take("ann")
    with pytest.raises(Failure, match="cannot be ended"):
        Lock(str(tmp_path / "lock")).take("bob", by_force=True)


def test_long_owner_fits(tmp_path: Path) -> None:
    first = Lock(str(tmp_path / "lock"))
    first.take("ü" * 200)
    held = first.holder()
    assert held is not None
    assert held["owner"] == "ü" * 200
