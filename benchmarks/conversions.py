"""Which networks can be lowered to which runtime at which precision, how faithfully, and does it pay?

A row for every network x backend x precision: converted in a process of its own (seconds and peak memory, beside the plain use of the same
runtime's tools), compared with the network it came from on evaluation samples, and timed. A cell is a figure, or there is a reason for
its absence in `status`, `plain_status`, or the `_reason` columns.

    convert_s        export and lowering, by the runtime's tools and ours
    ranges_s         the search of int8 ranges, ours by design; parity_s: the comparison, which the plain way leaves out
    convert_ratio_plain   convert_s / plain_s;  time_ratio_plain: (convert_s + ranges_s) / plain_s
    latency_ms       all files of a network take turns in every round, on one thread, batch 1; the ratio is to float32 of the same backend,
                     round by round; median and its distribution-free 95 % interval
    top1             of the file on the labelled samples; top1_float: of the float network on them

    make bench-conversions                       makes the environment, and runs
    python benchmarks/conversions.py [--form short|long] [--network NAME …] [--rounds N] [--table]

A run that was interrupted goes on with what is missing, as long as edgec and the packages are the same.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from common import ROOT, machine, publish

from edgec.pipeline.core import registry
from edgec.pipeline.core.records import Precision
from edgec.pipeline.work import tool_versions

WORK = ROOT / ".edgec" / "bench" / "conversions"
ROUNDS = {"short": 15, "long": 60}
LEAST_ROUNDS = 6
"""A median of fewer has no distribution-free 95 % interval."""
SAMPLES = {"short": 500, "long": 2500}
LIMIT_S = 3600
SEED = 0
NETWORKS = {
    "short": ("resnet20", "vgg8", "mobilenet_v2", "shufflenet_v2", "vit", "lstm", "silero-vad"),
    "long": (
        *("resnet20", "resnet56", "vgg8", "vgg16", "mobilenet_v2", "shufflenet_v2", "vit", "lstm"),
        *("efficientnet_lite0", "silero-vad"),
    ),
}
COLUMNS = (
    *("status", "weights", "method", "size_bytes", "engine_bytes", "engine_for", "parameters", "transposes", "islands"),
    *("reference", "n", "max_abs_error", "max_rel_error", "cosine_min", "top1_agreement", "top1_low", "parity_reason"),
    *("labelled", "top1", "top1_float"),
    *("rounds", "latency_ms", "latency_low", "latency_high", "latency_ratio_fp32", "ratio_low", "ratio_high", "latency_reason"),
    *("convert_s", "ranges_s", "parity_s", "engine_build_s", "memory_mb", "time_reason"),
    *("plain_s", "plain_memory_mb", "plain_status", "convert_ratio_plain", "time_ratio_plain"),
)


@dataclass(frozen=True)
class Run:
    """One table's settings and the folder of its finished parts."""

    form: str
    rounds: int
    folder: Path

    def name(self, *parts: str) -> Path:
        """A part's file, without its ending."""
        return self.folder / "-".join(parts)


@dataclass(frozen=True)
class Part:
    """What one process does: the short training of a network, one conversion by edgec or by hand, or the latencies of a network."""

    kind: str
    network: str
    backend: str = ""
    precision: str = ""

    @property
    def title(self) -> str:
        return "-".join(filter(None, (self.network, self.backend, self.precision, self.kind)))


def parts(networks: Sequence[str]) -> list[Part]:
    """In the order in which they need each other."""
    cells = [(backend, precision.value) for backend in registry.names("edgec.pipeline.backends") for precision in Precision]
    return [
        part
        for name in networks
        for part in (
            Part("train", name),
            *(Part(kind, name, *cell) for cell in cells for kind in ("cell", "plain")),
            Part("latency", name),
        )
    ]


def main() -> None:
    """Read the command line, do what is missing, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--form", choices=tuple(NETWORKS), default="short")
    parser.add_argument("--network", action="append", choices=NETWORKS["long"], help="only this one; may be given several times")
    parser.add_argument("--rounds", type=int, help="of latency; default: 15, or 60 in the long form")
    parser.add_argument("--table", action="store_true", help="run nothing; the table of what is there")
    parser.add_argument("--part", nargs=4, metavar=("KIND", "NETWORK", "BACKEND", "PRECISION"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rounds is not None and chosen.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds is at least {LEAST_ROUNDS}: fewer have no 95 % interval")
    run, about = run_of(chosen.form, chosen.rounds or ROUNDS[chosen.form]), machine()
    if chosen.part:
        print(json.dumps(carry_out(run, Part(*chosen.part))))
        return
    networks = tuple(chosen.network or NETWORKS[chosen.form])
    if not chosen.table:
        finish(run, parts(networks))
    rows = [row for name in NETWORKS["long"] for row in rows_of(run, name)]
    publish("conversions", rows, seeds=(SEED,), about=about)


def run_of(form: str, rounds: int) -> Run:
    """The folder is named by all that its parts depend on: edgec's own source, this benchmark's, the packages, the settings."""
    sources = [*sorted((ROOT / "pipeline").rglob("*.py")), *sorted((ROOT / "models").rglob("*.py"))]
    sources += [*sorted((ROOT / "targets" / "agent").rglob("*.py")), *sorted((ROOT / "benchmarks" / "conversion").glob("*.py"))]
    told = sha256(repr((form, rounds, SAMPLES[form], SEED, sorted(tool_versions().items()))).encode())
    for file in sources:
        told.update(file.read_bytes())
    return Run(form, rounds, WORK / told.hexdigest()[:12])


def kept(run: Run, part: Part) -> Path:
    """Where a part's result is."""
    return run.name(f"{part.title}.json")


def in_process(run: Run, part: Part) -> dict[str, Any]:
    """One part in a new process, which prints what it has to say as JSON on its last line. A process that dies is the cell's reason."""
    words = ["--form", run.form, "--rounds", str(run.rounds), "--part", part.kind, part.network, part.backend, part.precision]
    key = "plain_status" if part.kind == "plain" else "status"
    try:
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {key: f"not finished in {LIMIT_S} s"}
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [""]
        if part.kind in ("train", "latency"):
            raise SystemExit(f"{part.title} ended with status {done.returncode}:\n{done.stderr[-3000:]}") from None
        return {key: f"the process ended with status {done.returncode}: {last[0]}"}
    return said


def finish(run: Run, wanted: Sequence[Part], carry: Callable[[Run, Part], dict[str, Any]] = in_process) -> None:
    """Those that are missing, one after the other."""
    run.folder.mkdir(parents=True, exist_ok=True)
    missing = [part for part in wanted if not kept(run, part).exists()]
    began = time.monotonic()
    for number, part in enumerate(missing, 1):
        result = carry(run, part)
        draft = kept(run, part).with_suffix(".part")
        draft.write_text(json.dumps(result), encoding="utf-8")
        draft.replace(kept(run, part))
        left = (time.monotonic() - began) / number * (len(missing) - number)
        said = result.get("status") or result.get("plain_status") or "done"
        sys.stderr.write(f"{part.title}: {said}; {number} of {len(missing)}, {left / 60:.0f} min left\n")


def carry_out(run: Run, part: Part) -> dict[str, Any]:
    """What one process does."""
    from conversion import cells, latency, networks, plain

    out = run.name(part.network, f"{part.precision}.{part.backend}")
    if part.kind == "train":
        networks.prepare(part.network, run.folder)
        return {}
    if part.kind == "cell":
        return cells.cell(part.network, part.backend, Precision(part.precision), out, SAMPLES[run.form], run.folder)
    if part.kind == "plain":
        return plain.plain(part.network, part.backend, Precision(part.precision), out.with_suffix(".plain"), run.folder)
    ready = []
    for each in parts((part.network,)):
        if each.kind == "cell" and registry.backend(each.backend).format != "engine":
            found = json.loads(kept(run, each).read_text(encoding="utf-8"))
            if found["status"] == "ok":
                ready.append((each.backend, each.precision, run.name(part.network, f"{each.precision}.{each.backend}")))
    return latency.timed(ready, part.network, run.rounds)


def rows_of(run: Run, name: str) -> list[dict[str, Any]]:
    """The rows of a network, from what has been run; none before all of it has."""
    mine = parts((name,))
    if not all(kept(run, part).exists() for part in mine):
        return []
    results = {part: json.loads(kept(run, part).read_text(encoding="utf-8")) for part in mine}
    latencies = results[mine[-1]]
    rows = []
    for part, result in results.items():
        if part.kind != "cell":
            continue
        row = {"network": name, "backend": part.backend, "precision": part.precision, **dict.fromkeys(COLUMNS)}
        row |= result | results[Part("plain", name, part.backend, part.precision)] | latencies.get(f"{part.backend}-{part.precision}", {})
        if row["latency_ms"] is None and row["latency_reason"] is None:
            row["latency_reason"] = "not timed: see status"
        if row["convert_s"] is not None and row["plain_s"] is not None and row["time_reason"] is None:
            row["convert_ratio_plain"] = round(row["convert_s"] / row["plain_s"], 2)
            row["time_ratio_plain"] = round((row["convert_s"] + (row["ranges_s"] or 0.0)) / row["plain_s"], 2)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
