"""Power cuts of an emulated board: what benchmarks/faults.py strikes at its level "emulated".

A cut is SIGKILL for QEMU at any instant. The disk stays as it stood: what the board's kernel held back is lost, and so is what it has
written and not flushed as far as QEMU still holds it. Then the board starts cold, its file system replays its journal, and the campaign
looks. What a disk itself may lose or tear of writes that it has taken and not flushed is not emulated.
"""

import random
from pathlib import Path

from emulated import EmulatedBoard

from edgec.pipeline.core.settings import TargetSettings

CELLS = tuple(("power cut", phase) for phase in ("upload", "activate", "rollback"))


class PoweredHost:
    """A board for the campaigns of benchmarks/faults.py, in the place of `FaultyHost`."""

    how_full = how_read_only = "not done on an emulated board"

    def __init__(self, folder: Path, of: str = "raspberry-pi-4") -> None:
        self.board = EmulatedBoard(folder / "board", of)
        self.started_s = [self.board.start()]
        """Seconds of each start."""

    def settings(self) -> TargetSettings:
        """The board, with a health check."""
        return self.board.settings(health=("test", "-f", "model.onnx"))

    def strike(self, fault: str, dice: random.Random) -> None:
        """Take the power away, now."""
        assert fault == "power cut"
        self.board.cut()

    def mend(self) -> None:
        """Switch it on again."""
        if not self.board.is_on:
            self.started_s.append(self.board.start())

    def close(self) -> None:
        self.board.stop()
