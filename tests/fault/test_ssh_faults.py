"""What goes wrong between host and board, against a real OpenSSH server: each fault has its own error, and the active release stays."""

import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ssh_server import SshServer, free_port, make_key, needs_sshd
from tiny_networks import digest, images, linear_network

from edgec.pipeline.core.errors import (
    AgentDied,
    AuthRejected,
    ConnectTimeout,
    DeadlineExceeded,
    DeviceFull,
    DeviceReadOnly,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    PythonMissing,
    RunnerDied,
    TargetError,
)
from edgec.pipeline.core.records import StoppingRule
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.replies import NetworkJob
from edgec.targets.session import AgentSession, open_session
from edgec.targets.ssh import ATTEMPTS, PAUSE_S

pytestmark = [needs_sshd, pytest.mark.ssh]

LONG = StoppingRule(min_time_s=20, min_count=10**6, rel_width=0.001, max_time_s=20, warmup_s=0.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    server = SshServer(tmp_path / "board")
    server.start()
    yield server
    server.stop()


def deploy(settings: TargetSettings, folder: Path, name: str, *, padding: int = 0) -> None:
    """Ship a release of a network and `padding` random bytes, and activate it."""
    network, extra = linear_network(folder / f"{name}.onnx"), folder / f"{name}.bin"
    if not extra.exists():
        extra.write_bytes(os.urandom(padding))
    with open_session(settings) as session:
        session.ship({digest(each): each for each in (network, extra)})
        session.stage("app", name, {}, {"model.onnx": digest(network), "extra.bin": digest(extra)})
        session.activate("app", name)


def active(settings: TargetSettings) -> str:
    """The active release, whole."""
    with open_session(settings) as session:
        name = next(each.release for each in session.releases("app") if each.active)
        assert session.verify("app", name) == ()
    return name


def refused(settings: TargetSettings) -> TargetError:
    """The error of an attempt to open a session."""
    with pytest.raises(TargetError) as caught, open_session(settings):
        pass
    return caught.value


# --- connecting --------------------


def test_unknown_host_key_shows_fingerprint_and_the_line_that_accepts_it(server: SshServer) -> None:
    server.known_hosts.write_text("")
    error = refused(server.settings())
    assert type(error) is HostKeyUnknown
    assert error.exit_code == 3
    shown = subprocess.run(["ssh-keygen", "-lf", str(server.folder / "host_key.pub")], capture_output=True, text=True, check=True).stdout
    assert shown.split()[1] in error.what, "not OpenSSH's form of the fingerprint"
    command = error.hint.split("accept it with\n")[1]
    subprocess.run(["sh", "-c", command], check=True)
    assert server.known_hosts.read_text() == server.known_line()
    with open_session(server.settings()) as session:
        session.facts()


def test_unknown_host_key_is_refused_before_any_key_of_ours_is_shown(server: SshServer) -> None:
    server.known_hosts.write_text("")
    refused(server.settings())
    assert "publickey" not in (server.folder / "log").read_text()


def test_changed_host_key_shows_both_and_the_command_that_forgets(server: SshServer, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    kind, key = (tmp_path / "other.pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    error = refused(server.settings())
    assert type(error) is HostKeyChanged
    assert str(error.context["fingerprint"]) in error.what
    assert str(error.context["recorded"][0]) in error.what  # type: ignore[index]
    command = error.hint.split("with\n")[1]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert type(refused(server.settings())) is HostKeyUnknown


def test_hashed_known_hosts_entry_is_found(server: SshServer) -> None:
    subprocess.run(["ssh-keygen", "-H", "-f", str(server.known_hosts)], check=True, capture_output=True)
    assert server.known_hosts.read_text().startswith("|1|")
    with open_session(server.settings()):
        pass


def test_one_of_several_recorded_keys_is_enough(server: SshServer, tmp_path: Path) -> None:
    make_key(tmp_path / "rsa", "rsa")
    kind, key = (tmp_path / "rsa.pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n{server.known_line()}")
    with open_session(server.settings()) as session:
        assert session.facts().python


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_wrong_key_names_the_keys_tried(server: SshServer, tmp_path: Path, kind: str) -> None:
    make_key(tmp_path / "stranger", kind)
    error = refused(server.settings(identity_file=tmp_path / "stranger"))
    assert type(error) is AuthRejected
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "stranger.pub")], capture_output=True, text=True, check=True).stdout
    assert error.context["tried"] == [f"{tmp_path / 'stranger'} {shown.split()[1]}"]


def test_key_with_passphrase_is_named_and_nothing_is_asked(server: SshServer, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")], check=True)
    error = refused(server.settings(identity_file=tmp_path / "locked"))
    assert type(error) is AuthRejected
    assert "passphrase" in str(error.context["tried"])
    assert "ssh-add" in error.hint


def test_key_in_the_ssh_agent_is_used(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ssh-agent") is None:
        pytest.skip("no ssh-agent here (Debian: openssh-client)")
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "socket")], stdout=subprocess.DEVNULL) as agent:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "socket"))
            while not (tmp_path / "socket").exists():
                time.sleep(0.02)
            subprocess.run(["ssh-add", "-q", str(server.folder / "client_key")], check=True, capture_output=True)
            (server.folder / "client_key").unlink()
            with open_session(server.settings()) as session:
                assert session.facts().python
        finally:
            agent.terminate()


def test_closed_port(server: SshServer) -> None:
    error = refused(server.settings(port=free_port()))
    assert type(error) is HostUnreachable
    assert "refused" in error.what


def test_unknown_name(server: SshServer) -> None:
    error = refused(server.settings(host="no-such-board.invalid"))
    assert type(error) is HostUnreachable
    assert "no-such-board.invalid" in error.what


def test_host_that_accepts_and_never_speaks(server: SshServer) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        start = time.monotonic()
        error = refused(server.settings(port=listener.getsockname()[1], connect_timeout_s=1.0))
    assert type(error) is ConnectTimeout
    assert time.monotonic() - start < 4


def test_host_that_accepts_and_hangs_up(server: SshServer) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = []

        def hang_up() -> None:
            while len(taken) < ATTEMPTS:
                listener.accept()[0].close()
                taken.append(time.monotonic())

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = refused(server.settings(port=listener.getsockname()[1], connect_timeout_s=5.0))
        thread.join()
    assert type(error) is HostUnreachable
    assert taken[-1] - taken[0] < sum(PAUSE_S * 2**n for n in range(ATTEMPTS)) + 2


def test_server_that_is_too_busy_at_first_is_asked_again(server: SshServer) -> None:
    """A door that closes on the first two, as MaxStartups does, then leads to the server."""
    turned_away: list[bool] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def door() -> None:
            for _ in range(2):
                listener.accept()[0].close()
                turned_away.append(True)
            near = listener.accept()[0]
            with near, socket.create_connection(("127.0.0.1", server.port)) as far:
                ends = {near: far, far: near}
                while True:
                    for each in select.select(list(ends), [], [])[0]:
                        try:
                            data = each.recv(65536)
                        except ConnectionResetError:
                            return
                        if not data:
                            return
                        ends[each].sendall(data)

        thread = threading.Thread(target=door)
        thread.start()
        port = listener.getsockname()[1]
        server.known_hosts.write_text(server.known_line().replace(str(server.port), str(port)))
        with open_session(server.settings(port=port)) as session:
            session.facts()
        thread.join()
    assert len(turned_away) == 2


def test_frozen_server(server: SshServer) -> None:
    server.freeze()
    start = time.monotonic()
    error = refused(server.settings(connect_timeout_s=1.0))
    assert type(error) is ConnectTimeout
    assert time.monotonic() - start < 4
    server.resume()
    with open_session(server.settings()):
        pass


# --- the SSH configuration --------------------


def test_alias_port_user_key_and_known_hosts_come_from_the_ssh_configuration(server: SshServer) -> None:
    base = server.settings()
    assert base.ssh_config is not None
    base.ssh_config.write_text(
        f"Host kitchen\n  HostName 127.0.0.1\n  Port {server.port}\n  User {base.user}\n  IdentityFile {base.identity_file}\n"
        f"  UserKnownHostsFile {server.known_hosts}\n"
    )
    with open_session(server.settings(host="kitchen", port=None, user=None, identity_file=None, known_hosts=None)):
        pass


def test_included_configuration_is_read(server: SshServer, tmp_path: Path) -> None:
    base = server.settings()
    assert base.ssh_config is not None
    (tmp_path / "boards.conf").write_text(f"Host kitchen\n  HostName 127.0.0.1\n  Port {server.port}\n")
    base.ssh_config.write_text(f"Include {tmp_path}/*.conf\nHost kitchen\n  Port 1\n")
    with open_session(server.settings(host="kitchen", port=None)):
        pass


def test_jump_host(server: SshServer, tmp_path: Path) -> None:
    jump = SshServer(tmp_path / "jump")
    jump.start()
    try:
        shutil.copy(server.folder / "authorized_keys", jump.folder / "authorized_keys")
        server.known_hosts.write_text(server.known_line() + jump.known_line())
        config = server.settings().ssh_config
        assert config is not None
        user = server.settings().user
        config.write_text(
            f"Host inner\n  HostName 127.0.0.1\n  ProxyJump gate\nHost gate\n  HostName 127.0.0.1\n  Port {jump.port}\n  User {user}\n"
        )
        with open_session(server.settings(host="inner")) as session:
            session.facts()
            assert jump.sessions(), "the jump host was not used"
        jump.stop()
        assert type(refused(server.settings(host="inner"))) is HostUnreachable
    finally:
        jump.stop()


def test_proxy_command(server: SshServer, tmp_path: Path) -> None:
    script = tmp_path / "pipe.py"
    script.write_text(
        "import socket, sys, threading, os\n"
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "def up():\n"
        "    for data in iter(lambda: os.read(0, 65536), b''): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "for data in iter(lambda: s.recv(65536), b''): os.write(1, data)\n"
    )
    config = server.settings().ssh_config
    assert config is not None
    config.write_text(f"Host inner\n  HostName 127.0.0.1\n  ProxyCommand {shutil.which('python3')} {script} %p\n")
    with open_session(server.settings(host="inner")) as session:
        session.facts()


# --- the board --------------------


def test_missing_python(server: SshServer) -> None:
    error = refused(server.settings(python="no-such-python"))
    assert type(error) is PythonMissing
    assert "no-such-python" in error.what


def test_python_that_is_too_old(server: SshServer) -> None:
    old = server.folder / "python2"
    old.write_text("#!/bin/sh\necho 207\n")
    old.chmod(0o755)
    error = refused(server.settings(python=str(old)))
    assert type(error) is PythonMissing
    assert "2.7" in error.what


def test_login_files_may_talk(server: SshServer) -> None:
    (server.home / ".bashrc").write_text("echo welcome; printf 'no newline'; echo warning >&2\n")
    (server.home / ".profile").write_text("echo welcome\n")
    with open_session(server.settings()) as session:
        assert session.folder == str(server.home / ".edgec")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "edgec-test", str(disk)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no permission to mount a small disk: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_disk_too_small_for_the_upload(server: SshServer, small_disk: Path, tmp_path: Path) -> None:
    settings = server.settings(folder=str(small_disk / "edgec"))
    deploy(settings, tmp_path, "old")
    with pytest.raises(DeviceFull, match="are free"):
        deploy(settings, tmp_path, "new", padding=5_000_000)
    assert active(settings) == "old"
    (tmp_path / "new.bin").write_bytes(b"small")
    deploy(settings, tmp_path, "new")
    assert active(settings) == "new"


def test_disk_filled_by_somebody_else_during_the_upload(server: SshServer, small_disk: Path, tmp_path: Path) -> None:
    settings = server.settings(folder=str(small_disk / "edgec"))
    deploy(settings, tmp_path, "old")
    (tmp_path / "big.bin").write_bytes(os.urandom(2_000_000))
    hog = small_disk / "hog"

    def fill(_done: int, _total: int) -> None:
        if not hog.exists():
            with hog.open("wb") as file:
                file.write(b"x" * (os.statvfs(small_disk).f_bavail * 4096 - 200_000))

    with open_session(settings) as session, pytest.raises(DeviceFull):
        session.ship({digest(tmp_path / "big.bin"): tmp_path / "big.bin"}, progress=fill)
    assert active(settings) == "old"
    hog.unlink()
    deploy(settings, tmp_path, "new", padding=1000)
    assert active(settings) == "new"


def test_disk_that_is_full_to_the_last_byte(server: SshServer, small_disk: Path, tmp_path: Path) -> None:
    settings = server.settings(folder=str(small_disk / "edgec"))
    deploy(settings, tmp_path, "old")
    hog = small_disk / "hog"
    subprocess.run(["dd", "if=/dev/zero", f"of={hog}", "bs=4096"], capture_output=True, check=False)
    assert os.statvfs(small_disk).f_bavail == 0
    with pytest.raises(DeviceFull):
        deploy(settings, tmp_path, "new")
    assert active(settings) == "old"
    assert type(refused(server.settings(folder=str(small_disk / "another")))) is DeviceFull
    hog.unlink()
    deploy(settings, tmp_path, "new")
    assert active(settings) == "new"


def test_read_only_disk(server: SshServer, small_disk: Path, tmp_path: Path) -> None:
    settings = server.settings(folder=str(small_disk / "edgec"))
    deploy(settings, tmp_path, "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DeviceReadOnly):
        deploy(settings, tmp_path, "new")
    assert type(refused(server.settings(folder=str(small_disk / "another")))) is DeviceReadOnly
    assert active(settings) == "old"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    deploy(settings, tmp_path, "new")
    assert active(settings) == "new"


# --- the link and the processes --------------------


def test_link_cut_during_the_upload(server: SshServer, tmp_path: Path) -> None:
    settings = server.settings()
    deploy(settings, tmp_path, "old")
    file = tmp_path / "new.bin"
    file.write_bytes(os.urandom(30_000_000))

    def cut(done: int, total: int) -> None:
        if done > total // 2:
            server.cut()

    with open_session(settings) as session, pytest.raises(HostUnreachable, match="uploading"):
        session.ship({digest(file): file}, progress=cut)
    assert active(settings) == "old"
    with open_session(settings) as session:
        rest = session.ship({digest(file): file})
        assert 0 < rest < file.stat().st_size, "the upload began anew"
    deploy(settings, tmp_path, "new")
    assert active(settings) == "new"


def running(session: AgentSession, folder: Path) -> Callable[[], None]:
    """A long profile, ready to be called."""
    network = linear_network(folder / "run.onnx")
    images(folder / "x.npz")
    session.ship({digest(each): each for each in (network, folder / "x.npz")})
    job = NetworkJob(label="x", file=digest(network), format="onnx", runtime="onnxruntime", inputs=digest(folder / "x.npz"))
    return lambda: session.profile([job], LONG) and None


def running_with(server: SshServer, option: str) -> list[psutil.Process]:
    """The agent's processes that were started with an option (not the shells around them)."""
    found = []
    for process in server.sessions():
        try:
            if option in process.cmdline() and "python" in process.cmdline()[0]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def during(server: SshServer, what: Callable[[list[psutil.Process], list[psutil.Process]], None]) -> threading.Thread:
    """Do `what` to (agents, network processes) once a network runs."""

    def wait() -> None:
        end = time.monotonic() + 15
        while time.monotonic() < end:
            networks = running_with(server, "--runner")
            agents = running_with(server, "--folder")
            if networks and agents:
                time.sleep(0.7)
                what(agents, networks)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("fault", ["agent killed", "link cut"])
def test_agent_lost_in_a_profile(server: SshServer, tmp_path: Path, fault: str) -> None:
    settings = server.settings()
    deploy(settings, tmp_path, "old")
    children: list[psutil.Process] = []

    def strike(agents: list[psutil.Process], networks: list[psutil.Process]) -> None:
        children.extend(agents + networks)
        if fault == "agent killed":
            for process in agents:
                process.kill()
        else:
            server.cut()

    with open_session(settings) as session:
        profile = running(session, tmp_path)
        thread = during(server, strike)
        start = time.monotonic()
        with pytest.raises(AgentDied):
            profile()
        assert time.monotonic() - start < 10
        thread.join()
    assert psutil.wait_procs(children, timeout=10)[1] == [], "processes were left on the board"
    assert active(settings) == "old"
    deploy(settings, tmp_path, "new")
    assert active(settings) == "new"


def test_network_killed_in_a_profile(server: SshServer, tmp_path: Path) -> None:
    settings = server.settings()
    deploy(settings, tmp_path, "old")
    with open_session(settings) as session:
        profile = running(session, tmp_path)
        thread = during(server, lambda _agents, networks: [process.kill() for process in networks] and None)
        with pytest.raises(RunnerDied, match="SIGKILL") as caught:
            profile()
        thread.join()
        assert caught.value.context["signal"] == signal.SIGKILL
        assert session.verify("app", "old") == (), "the session did not survive"
    deploy(settings, tmp_path, "new")
    assert active(settings) == "new"


def test_network_that_hangs(server: SshServer, tmp_path: Path) -> None:
    settings = server.settings(request_timeout_s=2.0)
    quick = StoppingRule(min_time_s=2.0, min_count=10**6, rel_width=0.001, max_time_s=2.5, warmup_s=0.0)
    with open_session(settings) as session:
        running(session, tmp_path)
        network, inputs = digest(tmp_path / "run.onnx"), digest(tmp_path / "x.npz")
        job = NetworkJob(label="x", file=network, format="onnx", runtime="onnxruntime", inputs=inputs)
        thread = during(server, lambda _agents, networks: [process.suspend() for process in networks] and None)
        with pytest.raises(RunnerDied, match="no answer"):
            session.profile([job], quick)
        thread.join()
        session.facts()


def test_agent_that_hangs(server: SshServer, tmp_path: Path) -> None:
    settings = server.settings(request_timeout_s=2.0)
    deploy(settings, tmp_path, "old")
    with open_session(settings) as session:
        session.lock()
        agents = running_with(server, "--folder")
        for process in agents:
            process.suspend()
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            session.facts()
        assert time.monotonic() - start < 6
        with pytest.raises(AgentDied, match="is over"):
            session.facts()
    for process in agents:
        process.resume()
    assert psutil.wait_procs(agents, timeout=10)[1] == []
    deploy(settings, tmp_path, "new")
    assert active(settings) == "new"


def test_link_cut_in_a_command_is_told_at_once(server: SshServer) -> None:
    from edgec.targets.ssh import SshTransport

    transport = SshTransport(server.settings())
    transport.connect()
    cut = threading.Timer(0.5, server.cut)
    cut.start()
    start = time.monotonic()
    with pytest.raises(HostUnreachable):
        transport.run(["sleep", "30"], timeout_s=20)
    assert time.monotonic() - start < 5
    cut.join()
    transport.close()
