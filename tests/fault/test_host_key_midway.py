"""A server that negotiates keys anew in the middle of a connection: with its own host key that goes on, with another one it ends."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import paramiko
import pytest

from edgec.pipeline.core.errors import HostKeyChanged
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.ssh import SshTransport


class Door(paramiko.ServerInterface):
    """Lets everybody in; a command answers once the keys have been negotiated anew."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.set()
        return True


def serve(listener: socket.socket, first: paramiko.PKey, later: paramiko.PKey, opened: ExitStack) -> None:
    server = paramiko.Transport(opened.enter_context(listener.accept()[0]))
    opened.callback(server.close)
    server.add_server_key(first)
    door = Door()
    server.start_server(server=door)
    channel = server.accept(20)
    door.asked.wait(20)
    time.sleep(0.3)  # its answer to the request has to leave first: paramiko's server cannot send it while keys are negotiated
    server.add_server_key(later)
    try:
        server.renegotiate_keys()
    except (paramiko.SSHException, EOFError, ConnectionResetError):
        return
    if channel is not None:
        channel.sendall(b"still here\n")
        channel.send_exit_status(0)
        channel.close()


@pytest.mark.parametrize("same", [True, False], ids=["same key", "another key"])
def test_other_host_key_within_a_connection_ends_it(tmp_path: Path, same: bool) -> None:
    first = paramiko.ECDSAKey.generate()
    later = first if same else paramiko.ECDSAKey.generate()
    client = paramiko.ECDSAKey.generate()
    client.write_private_key_file(str(tmp_path / "key"))
    (tmp_path / "config").write_text("")
    with socket.socket() as listener, ExitStack() as opened:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {first.get_name()} {first.get_base64()}\n")
        thread = threading.Thread(target=serve, args=(listener, first, later, opened))
        thread.start()
        settings = TargetSettings(
            name="board",
            host="127.0.0.1",
            port=port,
            user="me",
            identity_file=tmp_path / "key",
            known_hosts=tmp_path / "known",
            ssh_config=tmp_path / "config",
        )
        transport = SshTransport(settings)
        transport.connect()
        try:
            if same:
                assert transport.run(["anything"], timeout_s=20) == (0, "still here\n", "")
            else:
                with pytest.raises(HostKeyChanged, match="in the middle") as caught:
                    transport.run(["anything"], timeout_s=20)
                assert caught.value.context["fingerprint"] == later.fingerprint
        finally:
            transport.close()
            thread.join()
