"""The report as JSON: the records themselves, without the raw times (they are in the store under the measurements' ids)."""

import json
from typing import Any

from edgec.pipeline.core.codec import json_from
from edgec.pipeline.report.model import Compression, Report

SCHEMA = 1


def data(report: Report | Compression) -> dict[str, Any]:
    """Plain JSON data."""
    whole = json_from(report)
    if isinstance(report, Compression):
        return {"schema": SCHEMA, "kind": "compression", **whole}
    for network, measurement in zip(whole["networks"], report.deploy.measurements[::-1], strict=True):
        network["id"] = measurement
        latency = network["measurement"]["latency"]
        latency["n"] = sum(map(len, latency.pop("blocks")))
        latency["n_warmup"] = len(latency.pop("warmup_ns"))
    return {"schema": SCHEMA, "kind": "report", **whole}


def render(report: Report | Compression) -> bytes:
    """Indented, keys in the records' order."""
    return json.dumps(data(report), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
