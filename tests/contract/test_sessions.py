"""The host's session with a real agent, over every transport: the same calls, the same results."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tiny_networks import digest, images, linear_network, weights

from edgec.pipeline.core.errors import (
    AgentDied,
    DeviceBusy,
    DeviceFull,
    DigestMismatch,
    HealthCheckFailed,
    ModelError,
    PythonMissing,
    RunnerDied,
    TargetError,
    ToolchainMissing,
)
from edgec.pipeline.core.records import StoppingRule
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.profilers.energy import energy_from
from edgec.targets.replies import GoldenBounds, NetworkJob
from edgec.targets.session import AgentSession, open_session

QUICK = StoppingRule(min_time_s=0.02, min_count=40, rel_width=0.5, max_time_s=0.4, warmup_s=0.02, block_s=0.002)


@pytest.fixture
def session(settings: TargetSettings) -> Iterator[AgentSession]:
    with open_session(settings) as session:
        yield session


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return linear_network(tmp_path / "net.onnx")


def job(session: AgentSession, network: Path, inputs: Path, label: str = "net") -> NetworkJob:
    session.ship({digest(each): each for each in (network, inputs)})
    return NetworkJob(label=label, file=digest(network), format="onnx", runtime="onnxruntime", inputs=digest(inputs))


def release(session: AgentSession, name: str, folder: Path, seed: int) -> str:
    """Ship and stage a release with one file; its digest."""
    file = linear_network(folder / f"{name}.onnx", seed=seed)
    session.ship({digest(file): file})
    session.stage("app", name, {"about": name}, {"model.onnx": digest(file)})
    return digest(file)


def test_facts_describe_this_machine(session: AgentSession) -> None:
    facts = session.facts()
    assert facts.machine == os.uname().machine
    assert facts.cores == len(os.sched_getaffinity(0))
    assert facts.memory_bytes is not None
    assert facts.memory_bytes > 1e8
    import onnxruntime

    assert [each.version for each in facts.runtimes if each.name == "onnxruntime"] == [onnxruntime.__version__]


def test_second_session_finds_the_agent_and_the_files(settings: TargetSettings, network: Path) -> None:
    with open_session(settings) as first:
        assert first.ship({digest(network): network}) == network.stat().st_size
    agent = next((Path(settings.folder) / "agents").iterdir())
    before = agent.stat().st_mtime_ns
    with open_session(settings) as second:
        assert second.ship({digest(network): network}) == 0
    assert agent.stat().st_mtime_ns == before
    assert len(list(agent.parent.iterdir())) == 1


def test_damaged_agent_file_is_replaced(settings: TargetSettings) -> None:
    with open_session(settings):
        pass
    agent = next((Path(settings.folder) / "agents").iterdir())
    good = agent.read_bytes()
    for bad in (b"", good[:-100], good.replace(b"def op_facts", b"def op_fakes")):
        agent.write_bytes(bad)
        with open_session(settings) as session:
            session.facts()
        assert agent.read_bytes() == good


def test_agent_that_is_there_under_an_interpreter_that_is_too_old(settings: TargetSettings, tmp_path: Path) -> None:
    """Said as that, not as an agent that dies; the agent's file stays."""
    with open_session(settings):
        pass
    agent = next((Path(settings.folder) / "agents").iterdir())
    before = agent.stat().st_mtime_ns
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\ncase $1 in -S) echo 207;; *) echo "SyntaxError: invalid syntax" >&2; exit 1;; esac\n')
    old.chmod(0o755)
    with pytest.raises(PythonMissing, match=r"is Python 2\.7"), open_session(replace(settings, python=str(old))):
        pass
    assert agent.stat().st_mtime_ns == before


def test_deploy_switch_and_roll_back(session: AgentSession, settings: TargetSettings, tmp_path: Path) -> None:
    current = Path(settings.folder) / "apps" / "app" / "current"
    one = release(session, "r1", tmp_path, 1)
    assert session.activate("app", "r1") is None
    two = release(session, "r2", tmp_path, 2)
    assert digest(current / "model.onnx") == one
    assert session.activate("app", "r2") == "r1"
    assert digest(current / "model.onnx") == two
    assert not str(current.readlink()).startswith("/")
    assert [(each.release, each.active, each.previous) for each in sorted(session.releases("app"), key=lambda each: each.release)] == [
        ("r1", False, True),
        ("r2", True, False),
    ]
    assert session.rollback("app") == ("r2", "r1")
    assert digest(current / "model.onnx") == one
    with pytest.raises(TargetError, match="no release"):
        session.rollback("app")


def test_release_that_does_not_verify_is_not_activated(session: AgentSession, settings: TargetSettings, tmp_path: Path) -> None:
    release(session, "r1", tmp_path, 1)
    session.activate("app", "r1")
    release(session, "r2", tmp_path, 2)
    file = Path(settings.folder) / "apps" / "app" / "releases" / "r2" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"damaged")
    assert session.verify("app", "r2") == ("model.onnx is damaged",)
    with pytest.raises(DigestMismatch):
        session.activate("app", "r2")
    assert [each.release for each in session.releases("app") if each.active] == ["r1"]
    # its object was the same file on disk: shipping finds that, sends it anew, and staging mends the release
    assert release(session, "r2", tmp_path, 2) == digest(file)
    assert session.activate("app", "r2") == "r1"


def test_interrupted_upload_goes_on(session: AgentSession, settings: TargetSettings, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(300_000))
    session.missing([])
    part = Path(settings.folder) / "incoming" / f"{digest(file)}.part"
    part.write_bytes(file.read_bytes()[:100_000])
    assert session.ship({digest(file): file}) == 200_000
    assert not part.exists()


def test_damaged_part_of_an_upload_is_sent_again(session: AgentSession, settings: TargetSettings, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(300_000))
    session.missing([])
    (Path(settings.folder) / "incoming" / f"{digest(file)}.part").write_bytes(b"\0" * 100_000)
    assert session.ship({digest(file): file}) == 300_000
    assert session.missing([digest(file)]) == ()


def test_file_that_is_not_its_digest_is_refused(session: AgentSession, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"something")
    with pytest.raises(DigestMismatch):
        session.ship({"0" * 64: tmp_path / "file"})
    assert session.missing(["0" * 64]) == ("0" * 64,)


def test_upload_that_cannot_fit_is_refused_before_it_starts(session: AgentSession, settings: TargetSettings, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(DeviceFull, match="are free") as caught:
        session.ship({"0" * 64: tmp_path / "sparse"})
    assert int(str(caught.value.context["needed_bytes"])) > 1 << 43
    assert list((Path(settings.folder) / "incoming").iterdir()) == []


def test_second_controller_is_told_who_is_there(settings: TargetSettings) -> None:
    with open_session(settings) as first:
        first.lock("ann@desk")
        with open_session(settings) as second, pytest.raises(DeviceBusy, match="ann@desk"):
            second.lock()
    with open_session(settings) as third:
        third.lock()
        assert third.facts().cores > 0


def test_prune_keeps_active_previous_and_newest(session: AgentSession, tmp_path: Path) -> None:
    for seed in range(1, 6):
        release(session, f"r{seed}", tmp_path, seed)
        if seed in (1, 2):
            session.activate("app", f"r{seed}")
    removed = session.prune("app", 1, unused_s=0)
    kept = {each.release for each in session.releases("app")}
    assert {"r1", "r2"} <= kept
    assert len(kept) == 3
    assert set(removed) == {"r1", "r2", "r3", "r4", "r5"} - kept
    assert session.verify("app", "r2") == ()


def test_profile_takes_turns_and_keeps_raw_times(session: AgentSession, network: Path, tmp_path: Path) -> None:
    images(tmp_path / "x.npz")
    other = linear_network(tmp_path / "other.onnx", classes=500)
    jobs = [job(session, network, tmp_path / "x.npz", "a"), job(session, other, tmp_path / "x.npz", "b")]
    run = session.profile(jobs, QUICK, seed=3)
    assert [each.label for each in run.networks] == ["a", "b"]
    spans = sorted((start, end, each.label) for each in run.networks for start, end in each.spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans)), "two blocks ran at the same time"
    for each in run.networks:
        assert len(each.blocks) == len(each.spans)
        assert len(each.blocks) >= 8
        assert sum(map(len, each.blocks)) >= QUICK.min_count
        assert all(sum(block) <= end - start for block, (start, end) in zip(each.blocks, each.spans, strict=True))
        assert sum(each.warmup_ns) >= 0.015e9
        assert each.load_s > 0
        assert each.first_s > 0
        assert each.rss_peak_bytes is not None
        assert each.rss_before_bytes is not None
        assert each.rss_peak_bytes >= each.rss_before_bytes > 1e6
    firsts = [spans[i][2] for i in range(0, min(len(spans), 40), 2)]
    assert len(set(firsts)) == 2, "the order within rounds never changed"
    assert run.before.monotonic_ns < spans[0][0] < run.after.monotonic_ns
    assert run.trace is None
    assert run.trace_reason


def test_energy_of_a_fast_network_is_known_under_the_default_rule(tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording of 5 W throughout: gross is 5 W times the duration of the blocks over their inferences."""
    (tmp_path / "trace.json").write_text('{"watts": [5.0]}')
    monkeypatch.setenv("EDGEC_REPLAY_TRACE", str(tmp_path / "trace.json"))
    images(tmp_path / "x.npz")
    here = TargetSettings(name="here", transport=TransportKind.LOCAL, python="auto", folder=str(tmp_path / "device"))
    with open_session(here) as session:
        run = session.profile([job(session, network, tmp_path / "x.npz")], StoppingRule(), meter="replay", period_s=0.02)
    (net,) = run.networks
    assert run.trace is not None
    got = energy_from(run.trace, net.spans, [len(block) for block in net.blocks])
    assert got.gross_j.reason == ""
    seconds = sum(end - start for start, end in net.spans) / 1e9
    assert got.gross_j.value == pytest.approx(5.0 * seconds / sum(map(len, net.blocks)), rel=0.02)


def test_infer_gives_the_matrix_product(session: AgentSession, network: Path, tmp_path: Path) -> None:
    x = images(tmp_path / "x.npz", n=5)
    outputs = session.infer(job(session, network, tmp_path / "x.npz"))
    np.testing.assert_allclose(outputs.arrays["output"], x.reshape(5, 16) @ weights(), rtol=1e-5, atol=1e-5)


def test_evaluate_scales_pixels_and_fills_the_last_batch(session: AgentSession, tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, size=(23, 1, 4, 4), dtype="uint8")
    scale, offset = np.array([1 / 40], dtype="float32"), np.array([-3.0], dtype="float32")
    np.savez(tmp_path / "set.npz", input=pixels, scale=scale, offset=offset)
    expected = ((pixels.astype("float64") / 40 - 3).reshape(23, 16) @ weights().astype("float64")).argmax(axis=1)
    fixed = linear_network(tmp_path / "fixed.onnx", batch=8)
    predictions, version = session.evaluate(job(session, fixed, tmp_path / "set.npz"), 8)
    assert predictions == expected.tolist()
    assert version
    with pytest.raises(ModelError, match="fixed at 8"):
        session.evaluate(job(session, fixed, tmp_path / "set.npz"), 4)


def test_golden_check_passes_and_fails_on_its_tolerance(session: AgentSession, network: Path, tmp_path: Path) -> None:
    x = images(tmp_path / "x.npz", n=4)
    y = x.reshape(4, 16) @ weights()
    np.savez(tmp_path / "golden.npz", **{"in:input": x, "out:output": y + np.float32(0.25)})
    session.ship({digest(each): each for each in (network, tmp_path / "golden.npz")})
    session.stage("app", "r1", {}, {"model.onnx": digest(network), "golden.npz": digest(tmp_path / "golden.npz")})
    loose = session.golden("app", "r1", GoldenBounds(file="model.onnx", runtime="onnxruntime", max_abs=0.3, top1=1.0))
    assert loose.passed
    assert loose.n == loose.agree == 4
    assert loose.max_abs_error == pytest.approx(0.25, abs=1e-4)
    assert not session.golden("app", "r1", GoldenBounds(file="model.onnx", runtime="onnxruntime", max_abs=0.2, top1=1.0)).passed


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x07garbage" * 50])
def test_file_that_is_no_network_is_a_model_error(session: AgentSession, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    images(tmp_path / "x.npz")
    with pytest.raises(ModelError):
        session.profile([job(session, tmp_path / "bad.onnx", tmp_path / "x.npz")], QUICK)
    session.facts()


def test_inputs_that_do_not_fit_are_named(session: AgentSession, network: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", pixels=np.zeros((1, 1, 4, 4), dtype="float32"))
    with pytest.raises(ModelError, match="'input'"):
        session.infer(job(session, network, tmp_path / "other.npz"))
    np.savez(tmp_path / "shape.npz", input=np.zeros((1, 4, 4), dtype="float32"))
    with pytest.raises(ModelError, match="has to be float32"):
        session.infer(job(session, network, tmp_path / "shape.npz"))
    np.savez(tmp_path / "pickle.npz", input=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelError, match="plain arrays"):
        session.infer(job(session, network, tmp_path / "pickle.npz"))


def test_unknown_runtime_says_so(session: AgentSession, network: Path, tmp_path: Path) -> None:
    images(tmp_path / "x.npz")
    known = job(session, network, tmp_path / "x.npz")
    odd = NetworkJob(label="x", file=known.file, format="onnx", runtime="abacus", inputs=known.inputs)
    with pytest.raises(ToolchainMissing, match="abacus"):
        session.infer(odd)


def test_remove_leaves_nothing_and_ends_the_session(session: AgentSession, settings: TargetSettings, tmp_path: Path) -> None:
    release(session, "r1", tmp_path, 1)
    session.remove()
    assert not Path(settings.folder).exists()
    with pytest.raises(TargetError, match="removed"):
        session.facts()


def test_folder_with_foreign_files_is_refused_untouched(settings: TargetSettings) -> None:
    Path(settings.folder).mkdir()
    (Path(settings.folder) / "thesis.tex").write_text("x")
    with pytest.raises(TargetError, match=r"thesis\.tex"), open_session(settings):
        pass
    assert [each.name for each in Path(settings.folder).iterdir()] == ["thesis.tex"]


def test_file_that_shrinks_travels_compressed_and_arrives_whole(session: AgentSession, settings: TargetSettings, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"".join(b"%d\n" % (i * i) for i in range(100_000)))
    sent = session.ship({digest(file): file})
    size = file.stat().st_size
    assert sent == size if settings.transport is TransportKind.LOCAL else sent < size / 2
    assert (Path(settings.folder) / "objects" / digest(file)).read_bytes() == file.read_bytes()
    assert list((Path(settings.folder) / "incoming").iterdir()) == []


def healthy(settings: TargetSettings, folder: Path, name: str, *health: str) -> str | None:
    """Ship and activate a release on a target with a health command."""
    with open_session(replace(settings, health=health, health_timeout_s=2.0)) as session:
        release(session, name, folder, len(name))
        return session.activate("app", name)


def active(settings: TargetSettings) -> list[str]:
    with open_session(settings) as session:
        return [each.release for each in session.releases("app") if each.active]


def test_release_that_is_not_healthy_is_taken_back(settings: TargetSettings, tmp_path: Path) -> None:
    assert healthy(settings, tmp_path, "r1", "test", "-f", "model.onnx") is None
    with pytest.raises(HealthCheckFailed, match="status 1; r1 is again active") as caught:
        healthy(settings, tmp_path, "r22", "test", "-f", "missing.onnx")
    assert caught.value.exit_code == 3
    assert active(settings) == ["r1"]
    with pytest.raises(HealthCheckFailed, match="within 2 s"):
        healthy(settings, tmp_path, "r22", "sleep", "60")
    with pytest.raises(HealthCheckFailed, match="cannot be started"):
        healthy(settings, tmp_path, "r22", "no-such-program")
    assert active(settings) == ["r1"]
    with open_session(settings) as session, pytest.raises(TargetError, match="no release"):
        session.rollback("app")
    assert healthy(settings, tmp_path, "r22", "true") == "r1"


def test_first_release_that_is_not_healthy_leaves_nothing_active(settings: TargetSettings, tmp_path: Path) -> None:
    with pytest.raises(HealthCheckFailed, match="nothing is active"):
        healthy(settings, tmp_path, "r1", "false")
    assert active(settings) == []
    assert not os.path.lexists(Path(settings.folder) / "apps" / "app" / "current")


def test_active_release_is_checked_by_its_golden_inputs(session: AgentSession, network: Path, tmp_path: Path) -> None:
    x = images(tmp_path / "x.npz", n=4)
    np.savez(tmp_path / "golden.npz", **{"in:input": x, "out:output": x.reshape(4, 16) @ weights() + np.float32(0.25)})
    session.ship({digest(each): each for each in (network, tmp_path / "golden.npz")})
    session.stage("app", "r1", {}, {"model.onnx": digest(network), "golden.npz": digest(tmp_path / "golden.npz")})
    bounds = GoldenBounds(file="model.onnx", runtime="onnxruntime", max_abs=0.2, top1=1.0)
    with pytest.raises(HealthCheckFailed, match="reference"):
        session.activate("app", "r1", bounds)
    assert [each.active for each in session.releases("app")] == [False]
    assert session.activate("app", "r1", replace(bounds, max_abs=0.3)) is None


def test_take_over_ends_the_other_session(settings: TargetSettings) -> None:
    with open_session(settings) as first, open_session(settings) as second:
        first.lock("ann@desk")
        with pytest.raises(DeviceBusy, match=r"ann@desk has been using this target for \d+ s") as caught:
            second.lock()
        assert "--take-over" in caught.value.hint
        held = second.holder()
        assert held is not None
        assert held.owner == "ann@desk"
        second.lock("bob@desk", take_over=True)
        with pytest.raises(AgentDied):
            first.facts()
        held = second.holder()
        assert held is not None
        assert held.owner == "bob@desk"
    with open_session(settings) as third:
        assert third.holder() is None


def test_network_beyond_the_memory_limit_is_a_result(settings: TargetSettings, tmp_path: Path) -> None:
    """128 MB of weights, which are read and then copied, against a limit of 200 MB."""
    large = linear_network(tmp_path / "large.onnx", classes=2_000_000)
    images(tmp_path / "x.npz")
    with open_session(replace(settings, memory_limit_bytes=200_000_000)) as session:
        with pytest.raises(RunnerDied, match="more memory"):
            session.infer(job(session, large, tmp_path / "x.npz"))
        small = linear_network(tmp_path / "small.onnx")
        session.infer(job(session, small, tmp_path / "x.npz"))
