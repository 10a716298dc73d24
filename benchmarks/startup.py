"""How long does a command take that should answer at once, and how much does it import?

Each command runs in a new process; all take turns in every round, so that a load of the machine falls on all of them. The ratio is to
the bare interpreter in the same round. Intervals are of the median (order statistics, 95 %). pip, a command line that
everybody has, stands beside ours.
"""

import json
import subprocess
import sys
import time

import numpy as np
from common import form, machine, publish
from scipy import stats

EDGEC = ["-m", "edgec.pipeline.cli.main"]
COMMANDS: dict[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "edgec --help": [*EDGEC, "--help"],
    "edgec --version": [*EDGEC, "--version"],
    "edgec doctor --help": [*EDGEC, "doctor", "--help"],
    "edgec report --help": [*EDGEC, "report", "--help"],
    "edgec doctor --json": [*EDGEC, "doctor", "--json"],
    "pip --version": ["-m", "pip", "--version"],
    "pip --help": ["-m", "pip", "--help"],
}
REFERENCE = "python -c pass"
ROUNDS = {"short": 15, "long": 60}

COUNT = """
import json, runpy, sys
words = json.loads(sys.argv[1])
sys.argv = words[1:] if words[0] == "-m" else ["-c"]
try:
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
except SystemExit:
    pass
print(len(sys.modules), file=sys.stderr)
"""
"""Runs the same words in one interpreter and says how many modules are loaded at the end (runpy's own few included)."""


def main() -> None:
    """Measure and publish."""
    rounds = ROUNDS[form(__doc__ or "")]
    about = machine()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for words in COMMANDS.values():
        seconds(words)  # fills the file cache; not counted
    for number in range(rounds):
        names = list(COMMANDS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(COMMANDS[name]))
    reference = np.array(times[REFERENCE])
    rows = []
    for name, taken in times.items():
        median, low, high = with_interval(np.array(taken) * 1e3)
        ratio, ratio_low, ratio_high = with_interval(np.array(taken) / reference)
        rows.append(
            {
                "command": name,
                "median_ms": round(median, 1),
                "low_ms": round(low, 1),
                "high_ms": round(high, 1),
                "n": rounds,
                "modules_loaded": modules(COMMANDS[name]),
                "ratio_to_python": round(ratio, 2),
                "ratio_low": round(ratio_low, 2),
                "ratio_high": round(ratio_high, 2),
            }
        )
    publish("startup", rows, about=about)


def seconds(words: list[str]) -> float:
    """Wall time of one process from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def modules(words: list[str]) -> int:
    """How many modules are loaded when the command ends."""
    done = subprocess.run([sys.executable, "-c", COUNT, json.dumps(words)], capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-1])


def with_interval(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float, float]:
    """Median and its distribution-free 95 % interval."""
    ends = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(np.median(values)), float(ends.low), float(ends.high)


if __name__ == "__main__":
    main()
