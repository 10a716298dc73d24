"""Connects to several targets at once; one that is off does not hide the others."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgec.pipeline import capability
from edgec.pipeline.cli.doctor_checks import Finding, findings
from edgec.pipeline.cli.output import error_as_json
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import json_from
from edgec.pipeline.core.errors import EdgecError
from edgec.pipeline.core.records import Conditions, Precision, TargetFacts
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.pipeline.core.units import elapsed, size
from edgec.targets.expected import mismatch, require_known
from edgec.targets.replies import Holder

AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a target answered, or why it did not."""

    settings: TargetSettings
    facts: TargetFacts | None = None
    conditions: Conditions | None = None
    findings: tuple[Finding, ...] = ()
    holder: Holder | None = None
    """Who is in charge there; None: nobody, or not known."""
    asked_s: float = 0.0
    """When the holder was asked for, on this machine's wall clock."""
    error: EdgecError | None = None

    @property
    def state(self) -> str:
        """One word for a list: usable · no runtime · other board · unreachable (or the error's name)."""
        if self.error is not None:
            return type(self.error).__name__
        if self.wrong_board:
            return "other board"
        return "no runtime" if self.missing else "usable"

    @property
    def wrong_board(self) -> str:
        """What answers instead of the configured board; empty when it is the one."""
        return "" if self.facts is None else mismatch(self.settings, self.facts)

    @property
    def verdict(self) -> capability.Verdict | None:
        """Whether the configured backend can come to run there at all, in float; None without facts."""
        return None if self.facts is None else capability.capable(self.facts, self.settings.backend, Precision.FP32)

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
        if self.wrong_board:
            return "check its host and port; or correct board in its [[target]] table"
        if not self.missing or self.facts is None:
            return ""
        if self.verdict is not None and not self.verdict.ok:
            return capability.advice(self.verdict, self.settings)
        if self.settings.transport is TransportKind.LOCAL and self.settings.python == "auto":
            return f'pip install "edgec[{self.settings.backend}]"'
        if capability.comes_as_wheel(self.settings.backend):
            return f"edgec targets prepare {self.settings.name}"
        return str(registry.backend(self.settings.backend).support(self.facts).hint)

    @property
    def usable(self) -> bool:
        """It answers and has the runtime it is configured for."""
        return self.error is None and not self.missing and not self.wrong_board

    @property
    def lock(self) -> dict[str, Any]:
        """The holder for --json; `since` is a time of this machine, since a board's own clock may stand anywhere. Empty when nobody is."""
        if self.holder is None:
            return {}
        age_s = self.holder.age_s
        since = None if age_s is None else datetime.fromtimestamp(self.asked_s - age_s).astimezone().isoformat(timespec="seconds")
        return {"lock": {"owner": self.holder.owner, "age_s": age_s, "since": since, "silent_s": self.holder.silent_s}}

    @property
    def in_use(self) -> str:
        """The holder for a person; empty when there is none."""
        if not self.lock:
            return ""
        age_s, since = self.lock["lock"]["age_s"], self.lock["lock"]["since"]
        return f"{self.lock['lock']['owner'] or 'somebody'}" + ("" if age_s is None else f" for {elapsed(age_s)}, since {since}")

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.settings.name,
            "usable": self.usable,
            "state": self.state,
            "board": self.settings.board,
            "wrong_board": self.wrong_board,
            "missing": self.missing,
            "remedy": self.remedy,
            "findings": [{"what": each.what, "remedy": each.remedy} for each in self.findings],
            "facts": self.facts and json_from(self.facts),
            "conditions": self.conditions and json_from(self.conditions),
            "error": self.error and error_as_json(self.error),
            **self.lock,
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
            known = f"{facts.board_id}: " if facts.board_id else ""
            lines.append(f"  board     {known}{facts.board} ({facts.machine}{emulated})")
            versions = [f"{name} {version}" for name, version in facts.versions.items() if name != "os"]
            system = [facts.versions.get("os", facts.system), *versions, f"kernel {facts.kernel}", facts.libc]
            lines.append(f"  system    {', '.join(filter(None, system))}")
            lines.append(f"  cpu       {facts.cpu}, {facts.cores} cores, {size(facts.memory_bytes)} memory")
            row = capability.board_row(facts)
            lines += [f"  has       {each}" for each in facts.accelerators or row.accelerators]
            lines += [f"  vendor    {row.system}"] if row.accelerators else []
            lines.append(f"  disk      {size(facts.disk_free_bytes)} free")
            lines.append(f"  python    {facts.python}")
            lines += [f"  runtime   {each.name} {each.version or 'no: ' + each.reason}" for each in facts.runtimes]
            for meter in facts.meters:
                state = ", ".join(meter.scope) or "usable" if meter.usable else f"no: {meter.reason}"
                lines.append(f"  meter     {meter.name}: {state}")
        if self.conditions is not None:
            lines.append(f"  now       {_now(self.conditions)}")
        if self.in_use:
            lines.append(f"  in use    {self.in_use}")
        if self.wrong_board:
            lines.append(f"  wrong     {self.wrong_board}")
        if self.missing:
            lines.append(f"  missing   {self.missing}")
        if self.remedy:
            lines.append(f"  hint      {self.remedy}")
        for each in self.findings:
            lines += [f"  note      {each.what}", f"  hint      {each.remedy}"]
        return lines


def _now(now: Conditions) -> str:
    """Clocks, temperature and flags in one line; what is not known is left out."""
    parts = {
        "load": now.load1 is not None and f"{now.load1:.2f}",
        "CPU": now.cpu_mhz is not None and f"{now.cpu_mhz:.0f} MHz",
        "GPU": now.gpu_mhz is not None and f"{now.gpu_mhz:.0f} MHz",
        "governor": now.governor,
        "power mode": now.power_mode,
        "temperature": now.temp_celsius is not None and f"{now.temp_celsius:.0f} °C",
        "throttled": now.throttled,
    }
    return ", ".join(f"{name} {text}" for name, text in parts.items() if text)


def probe(targets: Sequence[TargetSettings]) -> list[Probe]:
    """Ask each target what it is and in which state; the order stays.

    Raises:
        ConfigError: a target is configured with a board that does not exist.
    """
    for each in targets:
        require_known(each)
    if not targets:
        return []
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(targets)), thread_name_prefix="probe") as pool:
        return list(pool.map(_probe, targets))


def _probe(settings: TargetSettings) -> Probe:
    from edgec.targets.session import open_session

    try:
        with open_session(settings) as session:
            facts = session.facts()
            conditions, host_ns = session.conditions(), time.time_ns()
            found, asked_s, holder = findings(settings, facts, conditions, host_ns=host_ns), time.time(), session.holder()
            return Probe(settings=settings, facts=facts, conditions=conditions, findings=found, holder=holder, asked_s=asked_s)
    except EdgecError as error:  # one target's result; the command's exit code tells of it
        return Probe(settings=settings, error=error)


def address(settings: TargetSettings) -> str:
    """local · ssh user@host:port, as far as the configuration says."""
    if settings.transport is TransportKind.LOCAL:
        return "local"
    user = f"{settings.user}@" if settings.user else ""
    port = f":{settings.port}" if settings.port else ""
    return f"ssh {user}{settings.host or settings.name}{port}"
