"""What every stage is handed, and how a stage is remembered."""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgec.pipeline.core.codec import adapter, canonical
from edgec.pipeline.core.protocols import Events
from edgec.pipeline.core.records import Artifact, Checkpoint, Exported, Lineage, Record, Scalar
from edgec.pipeline.core.settings import Config
from edgec.pipeline.store import RunStore, stage_key

if TYPE_CHECKING:
    from edgec.pipeline.qdq import Form

R = TypeVar("R", bound=Record)

_TOOLS = ("torch", "torch-pruning", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "numpy", "scipy")


@dataclass(slots=True, kw_only=True)
class Work:
    """One command's configuration, store and listeners; `cached` collects the stages that were answered from the store."""

    config: Config
    store: RunStore
    events: Events
    command: str = ""
    fresh: bool = False
    opset: int = 17
    """Of the ONNX files that are written: lower where the target's runtime reads no newer one."""
    symmetric: bool = False
    """The backend's int8 grids have their zero point in the middle (`Backend.symmetric`)."""
    form: "Form | None" = None
    """Of int8 in ONNX files, by the target's CPU (`capability.integer_form`); None where there is no target, or its runtime takes any."""
    precision_reason: str = ""
    """Why this precision, where the target decided (`loop.settle_precision`)."""
    cached: list[str] = field(default_factory=list)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def stage(self, name: str, kind: type[R], inputs: Mapping[str, object], make: Callable[[], R]) -> R:
        """The stage's remembered result for these inputs, or a new one. A result whose files are gone or damaged is made anew."""
        key = stage_key(name, tools=tool_versions(), **inputs)
        found = None if self.fresh else self.store.remembered(key)
        if isinstance(found, kind) and all(self.store.has(digest) for digest in _files_of(found)):
            self.cached.append(name)
            self.events.note(f"{name}: from the store")
            return found
        with self.events.stage(name):
            record = make()
        self.store.remember(key, record)
        return record

    def lineage(self, stage: str, parameters: Mapping[str, object] | None = None) -> Lineage:
        """Provenance of a record made by this command."""
        return Lineage(
            stage=stage,
            parameters={k: _scalar(v) for k, v in (parameters or {}).items()},
            seed=self.config.seed,
            tools=tool_versions(),
            commit=source_commit(self.config.path.parent),
        )


def plain(settings: object) -> dict[str, Any]:
    """Settings as JSON data, for keys and lineage."""
    data = adapter(type(settings)).dump_python(settings, mode="json")
    assert isinstance(data, dict)
    return data


def tool_versions() -> dict[str, str]:
    """Installed versions of the packages that shape results; what is absent is left out."""
    from edgec import __version__

    found = {"edgec": __version__}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_commit(folder: Path) -> str:
    """The user's source commit, with "+" when the tree has changes; empty outside a repository."""
    try:
        head, changes = (_git(folder, *words) for words in (["rev-parse", "HEAD"], ["status", "--porcelain"]))
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changes else "")


def _git(folder: Path, *words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _scalar(value: object) -> Scalar:
    return value if isinstance(value, (str, int, float, bool)) else canonical(value)


def _files_of(record: Record) -> tuple[str, ...]:
    if isinstance(record, Checkpoint):
        return (record.weights,) if record.quantised is None else (record.weights, record.quantised)
    return (record.file,) if isinstance(record, (Exported, Artifact)) else ()
