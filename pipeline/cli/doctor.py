"""edgec doctor: what this machine and the boards have and lack, with the line that mends it."""

import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.core.errors import TargetError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "torch": ("onnxslim", "torch", "torch-pruning", "safetensors"),
    "onnxruntime": ("onnxruntime", "onnx-ir", "onnxslim"),
    "tflite": ("litert-torch", "ai-edge-litert"),
}
"""What `pip install "edgec[name]"` brings; the same as in pyproject.toml (a test compares)."""

FREE_BYTES_WANTED = 2_000_000_000
"""A deploy keeps checkpoints, exports and logs: below this it may run out while it works."""


@click.command(cls=Command, epilog="Example: edgec doctor jetson-nano pi")
@click.argument("targets", nargs=-1)
def command(context: Context, *, targets: tuple[str, ...]) -> Outcome:
    """Check this machine and boards: what is missing, and the line that mends it.

    Without TARGETs only this machine is checked. Exit code 3 if a target cannot be used; the others are reported all the same.
    """
    host = host_facts(context.folder)
    lines = host_lines(host)
    if not targets:
        return Outcome(results={"host": host, "targets": []}, text="\n".join(lines))

    from edgec.pipeline.cli.probing import probe
    from edgec.pipeline.config import LOCALHOST, target

    settings = [LOCALHOST] if targets == (LOCALHOST.name,) and not context.has_config() else None
    if settings is None:
        config = context.config()
        settings = [target(config, name) for name in dict.fromkeys(targets)]
    with context.events.stage("doctor", ", ".join(each.name for each in settings)):
        probes = probe(settings)
    for each in probes:
        lines += ["", *each.lines()]
    return Outcome(
        results={"host": host, "targets": [each.as_json() for each in probes]},
        text="\n".join(lines),
        exit_code=0 if all(each.usable for each in probes) else TargetError.exit_code,
    )


def host_facts(folder: Path) -> dict[str, Any]:
    """Python, each extra's packages (None: not installed) and the space where runs are kept."""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    extras = []
    for name, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        remedy = f'pip install "edgec[{name}]"' if None in versions.values() else ""
        extras.append({"name": name, "packages": versions, "remedy": remedy})
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "disk_free_bytes": shutil.disk_usage(place).free,
        "extras": extras,
    }


def host_lines(host: Mapping[str, Any]) -> list[str]:
    """For a person."""
    from edgec.pipeline.core.units import size

    free = host["disk_free_bytes"]
    short = f": less than {size(FREE_BYTES_WANTED)}, a deploy may run out" if free < FREE_BYTES_WANTED else ""
    lines = [
        "this machine",
        f"  system       {host['system']}",
        f"  python       {host['python']} ({host['executable']})",
        f"  disk         {size(free)} free{short}",
    ]
    for extra in host["extras"]:
        found = ", ".join(f"{package} {version or 'missing'}" for package, version in extra["packages"].items())
        lines.append(f"  {extra['name']:<12} {found}")
        if extra["remedy"]:
            lines.append(f"  {'hint':<12} {extra['remedy']}")
    return lines


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
