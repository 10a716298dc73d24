"""Connects to several targets at once; one that is off does not hide the others."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from edgec.pipeline.cli.output import error_as_json
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import json_from
from edgec.pipeline.core.errors import EdgecError
from edgec.pipeline.core.records import TargetFacts
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.pipeline.core.units import size

AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a target answered, or why it did not."""

    settings: TargetSettings
    facts: TargetFacts | None = None
    error: EdgecError | None = None

    @property
    def missing(self) -> str:
        """Why the target cannot run its backend; empty when it can or did not answer."""
        if self.facts is None:
            return ""
        runtime = next((each for each in self.facts.runtimes if each.name == self.settings.backend), None)
        if runtime is not None and runtime.version is not None:
            return ""
        return f"{self.settings.backend} cannot be used: {runtime.reason if runtime else 'the agent does not know it'}"

    @property
    def remedy(self) -> str:
        """The line that mends what is wrong."""
        if self.error is not None:
            return self.error.hint
        if not self.missing:
            return ""
        if self.settings.transport is TransportKind.LOCAL and self.settings.python == "auto":
            return f'pip install "edgec[{self.settings.backend}]"'
        return f"on {self.settings.name}: {self.settings.python} -m pip install {registry.backend(self.settings.backend).device_package}"

    @property
    def usable(self) -> bool:
        """It answers and has the runtime it is configured for."""
        return self.error is None and not self.missing

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.settings.name,
            "usable": self.usable,
            "missing": self.missing,
            "remedy": self.remedy,
            "facts": self.facts and json_from(self.facts),
            "error": self.error and error_as_json(self.error),
        }

    def lines(self) -> list[str]:
        """For a person: facts, runtimes and meters with reasons, and the line that mends."""
        state = "usable" if self.usable else "not usable"
        lines = [f"{self.settings.name}  {address(self.settings)}  {state}"]
        if self.error is not None:
            lines.append(f"  error     {self.error.what}")
            lines += [f"  {key:<9} {value}" for key, value in self.error.context.items() if value not in ("", None)]
        if (facts := self.facts) is not None:
            emulated = ", emulated: its timings mean nothing" if facts.emulated else ""
            lines.append(f"  board     {facts.board} ({facts.machine}{emulated})")
            lines.append(f"  system    {facts.system}, kernel {facts.kernel}" + (f", {facts.libc}" if facts.libc else ""))
            lines.append(f"  cpu       {facts.cpu}, {facts.cores} cores, {size(facts.memory_bytes)} memory")
            lines.append(f"  disk      {size(facts.disk_free_bytes)} free")
            lines.append(f"  python    {facts.python}")
            lines += [f"  runtime   {each.name} {each.version or 'no: ' + each.reason}" for each in facts.runtimes]
            for meter in facts.meters:
                state = ", ".join(meter.scope) or "usable" if meter.usable else f"no: {meter.reason}"
                lines.append(f"  meter     {meter.name}: {state}")
        if self.missing:
            lines.append(f"  missing   {self.missing}")
        if self.remedy:
            lines.append(f"  hint      {self.remedy}")
        return lines


def probe(targets: Sequence[TargetSettings]) -> list[Probe]:
    """Ask each target for its facts; the order stays."""
    if not targets:
        return []
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(targets)), thread_name_prefix="probe") as pool:
        return list(pool.map(_probe, targets))


def _probe(settings: TargetSettings) -> Probe:
    from edgec.targets.session import open_session

    try:
        with open_session(settings) as session:
            return Probe(settings=settings, facts=session.facts())
    except EdgecError as error:  # one target's result; the command's exit code tells of it
        return Probe(settings=settings, error=error)


def address(settings: TargetSettings) -> str:
    """local · ssh user@host:port, as far as the configuration says."""
    if settings.transport is TransportKind.LOCAL:
        return "local"
    user = f"{settings.user}@" if settings.user else ""
    port = f":{settings.port}" if settings.port else ""
    return f"ssh {user}{settings.host or settings.name}{port}"
