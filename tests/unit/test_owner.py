"""Who holds a lock, and whether that process has ended."""

import subprocess
import sys

import pytest

from edgec.targets.owner import is_gone, me


def test_live_process_is_not_gone_and_an_ended_one_is() -> None:
    assert not is_gone(me())
    done = subprocess.run(
        [sys.executable, "-c", "from edgec.targets.owner import me; print(me())"], capture_output=True, text=True, check=True
    )
    assert is_gone(done.stdout.strip())


@pytest.mark.parametrize("change", [("@", "@other-"), ("of boot ", "of boot f"), ("process ", "process 9999999999")])
def test_of_others_nothing_is_known(change: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from edgec.targets.owner import me; print(me())"], capture_output=True, text=True, check=True
    )
    assert not is_gone(done.stdout.strip().replace(*change))
    assert not is_gone(None)
    assert not is_gone("ann@desk")
