"""Engines by what they depend on: identical boards build once.

The key is the digest of the network, of everything that an engine is tied to (`replies.DeviceFingerprint`) and of how it is built
(`replies.EngineJob`: precision, batch, workspace, kinds of GPU). Engines lie in the run store by their own digest, so a damaged one is
seen by its hash, forgotten and built again.
"""

from dataclasses import asdict
from pathlib import Path

from edgec.pipeline.core.codec import digest_of_json
from edgec.pipeline.core.records import Artifact
from edgec.pipeline.store import RunStore
from edgec.targets.replies import DeviceFingerprint, EngineJob

SCHEMA = 1
"""Part of every key: a change of how engines are built makes old ones strangers."""


def engine_key(job: EngineJob, device: DeviceFingerprint) -> str | None:
    """The digest under which an engine is kept; None for a device of unknown kind, whose engine nobody else may use.

    An engine built for kinds of GPU by name does not depend on the GPU that is there.
    """
    tied = {name: value for name, value in asdict(device).items() if name != "reason"}
    if job.capabilities:
        tied = {name: tied[name] for name in ("runtime", "version", "strongly_typed")}
    elif not device.compute_capability:
        return None
    return digest_of_json({"engine": SCHEMA, "job": asdict(job), "device": tied})


def device_name(device: DeviceFingerprint) -> str:
    """A plain file name for what a kind of device keeps of its own: the timing cache."""
    tied = {name: value for name, value in asdict(device).items() if name != "reason"}
    return f"{device.runtime}-{digest_of_json(tied)[:16]}"


class EngineCache:
    """Engines in a run store. Laws: nothing damaged is returned; keeping twice is keeping once."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def find(self, key: str | None) -> Artifact | None:
        """The engine of that key, whole; None when there is none, or when its file is gone or damaged."""
        found = None if key is None else self._store.remembered(key)
        return found if isinstance(found, Artifact) and self._store.has(found.file) else None

    def keep(self, key: str | None, engine: Artifact, file: Path) -> None:
        """Take an engine's file in, and remember it under its key if it has one."""
        digest = self._store.adopt(file)
        assert digest == engine.file, "the record names the file"
        if key is None:
            self._store.put(engine)
        else:
            self._store.remember(key, engine)
