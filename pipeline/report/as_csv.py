"""The measured networks as CSV: one line each, SI units, empty where unknown (the reason is in `remarks`)."""

import csv
import io

from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Estimate
from edgec.pipeline.report.model import Compression, Network, Report


def render(report: Report | Compression) -> bytes:
    """RFC 4180 with a header line, UTF-8.

    Raises:
        ConfigError: nothing was measured.
    """
    if isinstance(report, Compression):
        raise ConfigError("nothing was deployed and measured in this run", hint="--format rounds has a line for each round of its search")
    text = io.StringIO()
    lines = [_line(report, network) for network in report.networks]
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def _line(report: Report, network: Network) -> dict[str, object]:
    one = network.measurement
    line: dict[str, object] = {
        "deploy": report.id,
        "target": one.target,
        "network": network.label,
        "deployed": network.compressed,
        "precision": one.precision.value,
        "runtime": f"{one.runtime} {one.runtime_version}",
        "batch": one.batch,
        "threads": one.threads,
        "parameters": network.cost.parameters if network.cost else None,
        "macs": network.cost.macs if network.cost else None,
        "size_bytes": one.size_bytes,
        "peak_memory_bytes": one.memory.peak_bytes,
    }
    estimates = {
        "top1": one.accuracy.top1 if one.accuracy else Estimate(value=None),
        "p50_s": one.latency.p50_s,
        "p90_s": one.latency.p90_s,
        "p99_s": one.latency.p99_s,
        "speedup": network.speedup,
        "energy_gross_j": one.energy.gross_j,
    }
    for name, estimate in estimates.items():
        line |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    valid = one.validity
    reasons = [one.accuracy_reason, one.memory.reason, *(each.reason for each in estimates.values()), *valid.causes, *valid.warnings]
    return line | {
        "provenance": one.provenance.value,
        "valid": valid.valid,
        "remarks": "; ".join(dict.fromkeys(reason for reason in reasons if reason)),
        "measurement": report.deploy.measurements[::-1][report.networks.index(network)],
    }
