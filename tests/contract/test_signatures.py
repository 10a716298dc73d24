"""Signed releases over every transport: a target that trusts a key activates nothing that another has signed, or nobody."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_networks import digest, linear_network

from edgec.pipeline.core.errors import SignatureRejected
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.agent.trust import Signature, manifest_bytes, message
from edgec.targets.session import AgentSession, open_session
from edgec.targets.signing import generate, private_key, signed


@pytest.fixture
def key(tmp_path: Path) -> Path:
    generate(tmp_path / "key", "test")
    return tmp_path / "key"


def staged(session: AgentSession, folder: Path, name: str, key: Path | None, *, signed_name: str = "") -> None:
    file = linear_network(folder / f"{name}.onnx", seed=len(name))
    session.ship({digest(file): file})
    manifest, files = {"about": name}, {"model.onnx": digest(file)}
    text = manifest_bytes({**manifest, "files": files})
    signature: Signature | None = None if key is None else signed(private_key(key), message("app", signed_name or name, text))
    session.stage("app", name, manifest, files, signature)


def test_trusted_signature_is_taken_and_everything_else_refused(settings: TargetSettings, key: Path, tmp_path: Path) -> None:
    line = (tmp_path / "key.pub").read_text()
    generate(tmp_path / "stranger", "somebody else")
    with open_session(settings) as session:
        staged(session, tmp_path, "r", None)
        session.activate("app", "r")
        assert session.trusted() is None
        assert len(session.trust([line])) == 1
        staged(session, tmp_path, "r1", key)
        assert session.activate("app", "r1") == "r"
        for what, wrong, name in [("not signed", None, ""), ("does not trust", tmp_path / "stranger", ""), ("not that of", key, "r1")]:
            with pytest.raises(SignatureRejected, match=what):
                staged(session, tmp_path, "r22", wrong, signed_name=name)
        with pytest.raises(SignatureRejected, match="not signed"):  # what was there before is no exception
            session.rollback("app")
        assert [each.release for each in session.releases("app") if each.active] == ["r1"]
        session.trust([], only=True)
        session.rollback("app")


def test_release_tampered_with_on_the_target_is_refused(settings: TargetSettings, key: Path, tmp_path: Path) -> None:
    """Whoever changes the manifest there can change its checksum too, but not the signature."""
    with open_session(settings) as session:
        session.trust([(tmp_path / "key.pub").read_text()])
        staged(session, tmp_path, "r1", key)
        session.activate("app", "r1")
        staged(session, tmp_path, "r22", key)
        folder = Path(settings.folder) / "apps" / "app" / "releases" / "r22"
        text = (folder / "manifest.json").read_bytes().replace(b"r22", b"r33")
        seal = json.loads((folder / "seal.json").read_text())
        (folder / "manifest.json").write_bytes(text)
        (folder / "seal.json").write_text(json.dumps({**seal, "sha256": digest(folder / "manifest.json")}))
        assert session.verify("app", "r22") == ()
        with pytest.raises(SignatureRejected, match="not that of its manifest"):
            session.activate("app", "r22")
        for odd in ({"key": 1, "signature": "zz"}, {"key": None, "signature": 5}, {"signature": "00"}):
            (folder / "seal.json").write_text(json.dumps({**odd, "sha256": digest(folder / "manifest.json")}))
            with pytest.raises(SignatureRejected):
                session.activate("app", "r22")
        assert [each.release for each in session.releases("app") if each.active] == ["r1"]


def test_host_can_demand_a_signature_where_the_target_does_not(settings: TargetSettings, key: Path, tmp_path: Path) -> None:
    with open_session(replace(settings, require_signature=True)) as session:
        with pytest.raises(SignatureRejected, match="trusts no key"):
            staged(session, tmp_path, "r1", key)
        session.trust([(tmp_path / "key.pub").read_text()])
        staged(session, tmp_path, "r1", key)
        session.activate("app", "r1")


def test_damaged_list_of_keys_trusts_nobody(settings: TargetSettings, key: Path, tmp_path: Path) -> None:
    with open_session(settings) as session:
        session.trust([(tmp_path / "key.pub").read_text()])
        (Path(settings.folder) / "trusted_keys").write_text("ssh-rsa nonsense\n")
        with pytest.raises(SignatureRejected, match="cannot be used"):
            staged(session, tmp_path, "r1", key)
        session.trust([(tmp_path / "key.pub").read_text()], only=True)
        staged(session, tmp_path, "r1", key)
