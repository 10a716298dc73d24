"""What every benchmark shares: the result file, the description of the machine, the printed table."""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Row = Mapping[str, str | int | float | bool | None]


def form(description: str) -> str:
    """short or long, from --form."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--form", choices=("short", "long"), default="short")
    chosen: str = parser.parse_args().form
    return chosen


def machine() -> dict[str, Any]:
    """What the numbers depend on; no host name and no path."""
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    memory = next((int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), None)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load1_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit of the tree, with "+" when it has been changed since."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return head + ("+" if changed else "")


def publish(
    name: str, rows: Sequence[Row], *, seeds: Sequence[int] = (), provenance: str = "measured", about: Mapping[str, Any] | None = None
) -> None:
    """Print the rows as a table and write benchmarks/results/NAME.json."""
    result = {
        "schema": 1,
        "command": f"python benchmarks/{name}.py {' '.join(sys.argv[1:])}".strip(),
        "commit": commit(),
        "machine": about,
        "provenance": provenance,
        "seeds": list(seeds),
        "rows": list(rows),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    draft = RESULTS / f".{name}.json"
    draft.write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(RESULTS / f"{name}.json")
    for columns in dict.fromkeys(tuple(row) for row in rows):
        print(table([row for row in rows if tuple(row) == columns]), end="\n\n")
    print(f"benchmarks/results/{name}.json written")


class Finished:
    """Parts of a benchmark, each kept as a line of JSON as soon as it ends: an interrupted one goes on where it stopped. Parts may end in
    several threads.
    """

    def __init__(self, name: str, key: str, total: int) -> None:
        self._file = ROOT / ".edgec" / "bench" / name / f"{key}.jsonl"
        self._lock = threading.Lock()
        self._start, self._total = time.monotonic(), total
        self.parts = [json.loads(line) for line in _lines(str(self._file))]
        self._before = self._done = len(self.parts)

    def add(self, part: Mapping[str, Any]) -> None:
        """Keep a part, and say how far it is and how long the rest takes at this pace."""
        with self._lock:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            before = self._file.read_bytes() if self._file.exists() else b""
            draft = self._file.with_suffix(".tmp")
            draft.write_bytes(before + json.dumps(part).encode() + b"\n")
            draft.replace(self._file)  # in one step: a line that is half there would end the next start
            self._done += 1
            left_s = (time.monotonic() - self._start) / (self._done - self._before) * max(0, self._total - self._done)
            print(f"{self._done} of {self._total} done, {left_s / 60:.0f} min left", file=sys.stderr, flush=True)

    def forget(self) -> None:
        """All is published: the next start is a new benchmark."""
        self._file.unlink(missing_ok=True)


def table(rows: Sequence[Row]) -> str:
    """Plain columns; unknown values are a dash."""
    head = list(rows[0])
    cells = [head, *([_cell(row[name]) for name in head] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
