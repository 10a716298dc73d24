"""Keeps what a search has done, so that a run that was killed goes on where it stood.

A folder holds for each key `KEY.json`, and `KEY.safetensors` where the step gave a network. The tensors are written first, each file
under a temporary name, synced and renamed: a JSON file that is there is whole, and so are its tensors.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from edgec.pipeline.core.codec import adapter, canonical
from edgec.pipeline.core.errors import StoreError
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.records import Digest


class RoundStore(Protocol):
    """Laws: `load` gives what `save` got, or None; nothing half written is ever returned; saving twice is saving once; what was forgotten
    was never saved."""

    def save(self, key: str, tensors: Mapping[str, Tensor] | None, data: Mapping[str, Any]) -> None:
        """Keep a step: the network's tensors (None for a probe) and its JSON data."""
        ...

    def load(self, key: str) -> tuple[dict[str, Tensor] | None, dict[str, Any]] | None:
        """What was kept under this key.

        Raises:
            StoreError: it is damaged.
        """
        ...

    def forget(self, key: str, why: str) -> None:
        """Remove what was kept under this key, which cannot be used."""
        ...


T = TypeVar("T")


def usable(store: RoundStore, key: str, kind: type[T]) -> tuple[dict[str, Tensor] | None, T] | None:
    """What was kept under this key, its data as a `kind`. What is damaged or of another shape is forgotten, and the step is done again."""
    from pydantic import ValidationError

    try:
        found = store.load(key)
        return None if found is None else (found[0], adapter(kind).validate_python(found[1]))
    except (StoreError, ValidationError) as error:
        store.forget(key, error.what if isinstance(error, StoreError) else f"it is no {kind.__name__.strip('_').lower()}")
        return None


class RoundFolder:
    """A folder of rounds."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, key: str, tensors: Mapping[str, Tensor] | None, data: Mapping[str, Any]) -> None:
        """Atomic.

        Raises:
            StoreError: the folder cannot be written.
        """
        from safetensors.torch import save

        document: dict[str, Any] = {"data": dict(data), "tensors": None}
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            if tensors is not None:
                content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
                document["tensors"] = hashlib.sha256(content).hexdigest()
                _write(self._path / f"{key}.safetensors", content)
            _write(self._path / f"{key}.json", canonical(document).encode())
        except OSError as error:
            raise StoreError(f"a round cannot be kept in {self._path}: {error.strerror}", hint="check space and permissions") from error

    def load(self, key: str) -> tuple[dict[str, Tensor] | None, dict[str, Any]] | None:
        """None when the step never ended.

        Raises:
            StoreError: the files are not what was written.
        """
        from safetensors.torch import load

        file = self._path / f"{key}.json"
        try:
            document = json.loads(file.read_bytes())
            if document["tensors"] is None:
                return None, document["data"]
            content = file.with_suffix(".safetensors").read_bytes()
        except FileNotFoundError:
            if file.exists():
                raise self._damaged(file) from None
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(file) from error
        if hashlib.sha256(content).hexdigest() != document["tensors"]:
            raise self._damaged(file)
        return load(content), document["data"]

    def forget(self, key: str, why: str) -> None:  # noqa: ARG002 a listener tells why
        """Remove the step's files."""
        for ending in ("json", "safetensors"):
            (self._path / f"{key}.{ending}").unlink(missing_ok=True)

    def _damaged(self, file: Path) -> StoreError:
        return StoreError(f"a kept round is damaged: {file}", hint=f"remove {file.with_suffix('')}.* to train this round again")


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> Digest:
    """SHA-256 of all tensors with their names, types and shapes: names a network, or a calibration split."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _write(file: Path, content: bytes) -> None:
    with replacing(file) as draft:
        draft.write_bytes(content)
