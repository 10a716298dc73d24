"""The rounds of the search as CSV: one line each, fractions and SI units, empty where unknown; one column for each layer's width."""

import csv
import io

from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Checkpoint, Estimate, Round, Search
from edgec.pipeline.outlook import decision, in_order, is_probe
from edgec.pipeline.report.model import Compression, Report


def render(report: Report | Compression) -> bytes:
    """RFC 4180 with a header line, UTF-8. The header depends on the network's layers.

    Raises:
        ConfigError: nothing was pruned.
    """
    search = report.search
    if search is None or not search.rounds:
        raise ConfigError("this run has no rounds: nothing was pruned", hint="[prune] enabled = true, or --format csv")
    text = io.StringIO()
    lines = [_line(report, search, each) for each in search.rounds]
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def _line(report: Report | Compression, search: Search, each: Round) -> dict[str, object]:
    dense: Checkpoint = report.dense
    line: dict[str, object] = {
        "run": report.id,
        "round": each.index,
        "phase": "probe" if is_probe(each) else "trained",
        "chosen": each.index == search.chosen_round,
        "accepted": each.accepted,
        "asked_cost_kept": each.asked_cost_kept,
        "threshold": each.threshold,
        "parameters": each.cost.parameters,
        "parameters_kept": each.cost.parameters / dense.cost.parameters,
        "macs": each.cost.macs,
        "macs_kept": each.cost.macs / dense.cost.macs,
    }
    estimates = {
        "top1": each.accuracy.top1 if each.accuracy else None,
        "accuracy_drop": each.accuracy_drop,
        "latency_ratio": each.latency_ratio,
        "latency_s": each.latency_s,
        "energy_ratio": each.energy_ratio,
        "energy_j": each.energy_j,
    }
    for name, estimate in estimates.items():
        known = estimate or Estimate(value=None)
        line |= {name: known.value, f"{name}_low": known.low, f"{name}_high": known.high}
    return line | {
        "size_bytes": each.size_bytes,
        "wall_s": each.wall_s,
        "trained_images": each.trained_images,
        "rewind": each.rewind,
        "recovery": each.recovery,
        "decision": decision(each),
        "parent": each.parent,
        "checkpoint": each.checkpoint,
        **{f"width {name}": each.widths.get(name) for name in in_order(search.rounds[0].widths)},
    }
