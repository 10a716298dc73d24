"""From target settings to an authenticated SSH connection: ~/.ssh/config, strict host keys, keys of the agent and from files, jump hosts.

Nothing is ever asked at a prompt and no password is ever sent. An unknown or changed host key ends the attempt before any key is offered.
"""

import functools
import getpass
import glob
import logging
import shlex
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import paramiko
from paramiko.ssh_exception import CouldNotCanonicalize

from edgec.pipeline.core.errors import AuthRejected, ConfigError, ConnectTimeout, HostKeyChanged, HostKeyUnknown
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.ssh_faults import connecting

KEEPALIVE_S = 15
UNACKNOWLEDGED_MS = 30_000
"""After this long without acknowledgement TCP gives a connection up (Linux, man 7 tcp: TCP_USER_TIMEOUT); the default is 15 minutes."""
SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
DEEPEST_INCLUDE = 16
STEERING = frozenset("'`\"$\\;&<>|(){} ")
"""What a shell could make more of; OpenSSH refuses the same in names since 9.6 (CVE-2023-51385)."""
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # its tracebacks are for the log, not for the terminal


class PromptSocket(socket.socket):
    """Neither end waits for the other's delayed acknowledgement before it sends its next small packet, 40 ms each time on Linux: what we
    send leaves at once (TCP_NODELAY), what we receive is acknowledged at once (TCP_QUICKACK does not last, man 7 tcp).
    """

    @classmethod
    def to(cls, host: str, port: int, timeout_s: float) -> Self:
        """Connect. Raises what `socket.create_connection` raises."""
        sock = cls(fileno=socket.create_connection((host, port), timeout=timeout_s).detach())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As its base."""
        data = super().recv(size, flags)
        if data and hasattr(socket, "TCP_QUICKACK"):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


class PinnedTransport(paramiko.Transport):
    """A connection whose server keeps the host key that it began with.

    Keys are negotiated anew within a connection (RFC 4253, section 9), by default after 512 MB. Paramiko verifies the signature then,
    and does not look whose it is.
    """

    offered: paramiko.PKey | None = None
    """The other key, when one was offered."""

    def _verify_key(self, host_key: bytes, sig: bytes) -> None:
        first = self.host_key
        super()._verify_key(host_key, sig)  # type: ignore[misc]  # its stubs leave private methods out
        if first is not None and self.host_key != first:
            self.offered = self.host_key
            raise paramiko.SSHException("the server offers another host key than at the beginning")

    def changed(self, name: str) -> HostKeyChanged | None:
        """The error for a connection that ended so."""
        if self.offered is None:
            return None
        return HostKeyChanged(
            f"{name} offered another host key in the middle of the connection: {self.offered.fingerprint}; it has been cut",
            hint="somebody may be in between: look at the network before you connect again",
            context={"target": name, "fingerprint": self.offered.fingerprint, "key_type": self.offered.get_name()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where and as whom to connect: the settings of deploy.toml over those of the SSH configuration."""

    host: str
    port: int
    user: str
    alias: str
    """The name in known_hosts files."""
    identities: tuple[Path, ...]
    only_identities: bool
    known_hosts: tuple[Path, ...]
    jumps: tuple[str, ...]
    proxy_command: str

    @property
    def where(self) -> str:
        """user@host:port."""
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def known_name(self) -> str:
        """How known_hosts files name this server."""
        return self.alias if self.port == 22 else f"[{self.alias}]:{self.port}"


def route_from(settings: TargetSettings) -> Route:
    """Look the target up in the SSH configuration.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    path = settings.ssh_config or Path("~/.ssh/config").expanduser()
    # what comes first holds: so deploy.toml's port and user are also in the file's %p and %r
    ours = [f"Port {settings.port}"] if settings.port else []
    ours += [f"User {settings.user}"] if settings.user else []
    try:
        text = _config_text(path) if settings.ssh_config is not None or path.is_file() else ""
        config = _parsed("\n".join([*ours, text]))
    except (OSError, ValueError, paramiko.ConfigParseError) as error:
        raise ConfigError(f"the SSH configuration {path} cannot be read: {error}") from error
    asked = settings.host or settings.name
    for kind, value in (("host", asked), ("user", settings.user or "")):
        if value.startswith("-") or any(c in STEERING or not c.isprintable() for c in value):
            what = f"the {kind} {value!r} of {settings.name} has characters that no name has"
            raise ConfigError(what, hint="a ProxyCommand of the SSH configuration would hand them to a shell")
    found = _looked_up(config, asked, path)
    host = str(found.get("hostname", asked))
    try:
        port = int(found.get("port", 22))
    except ValueError as error:
        raise ConfigError(f"the SSH configuration {path} has the port {found['port']!r} for {asked}") from error
    try:
        known = (settings.known_hosts,) if settings.known_hosts else _paths(found.get("userknownhostsfile", "~/.ssh/known_hosts"))
        known += _paths(found.get("globalknownhostsfile", str(SYSTEM_KNOWN_HOSTS)))
    except ValueError as error:
        raise ConfigError(f"the SSH configuration {path} has a list of known_hosts files that cannot be read: {error}") from error
    own = (settings.identity_file,) if settings.identity_file else tuple(Path(each) for each in found.get("identityfile", ()))
    jump = str(found.get("proxyjump", "none"))
    command = str(found.get("proxycommand", "none"))
    return Route(
        host=host,
        port=port,
        user=str(found.get("user", getpass.getuser())),
        alias=str(found.get("hostkeyalias", host)).lower(),
        identities=tuple(each.expanduser() for each in own or tuple(Path(key) for key in DEFAULT_KEYS)),
        only_identities=settings.identity_file is not None or str(found.get("identitiesonly", "no")).lower() == "yes",
        known_hosts=known,
        jumps=() if jump.lower() == "none" else tuple(part.strip() for part in jump.split(",")),
        proxy_command="" if command.lower() == "none" else command,
    )


class FleetConfig(paramiko.SSHConfig):
    """Looks at blocks that begin with Host without asking for what only Match compares, in paramiko this user's name for each block: with
    500 targets in the file that was 2 s.
    """

    def _does_match(self, match_list: Any, *rest: Any) -> Any:
        return match_list and super()._does_match(match_list, *rest)  # type: ignore[misc]  # its stubs leave private methods out


@functools.lru_cache(maxsize=16)
def _parsed(text: str) -> paramiko.SSHConfig:
    """A fleet's targets share one file: it is parsed once, not once for each."""
    return FleetConfig.from_text(text)


def _looked_up(config: paramiko.SSHConfig, asked: str, path: Path) -> dict[str, Any]:
    """What the configuration says about a host.

    Raises:
        ConfigError: it asks for what paramiko cannot do.
    """
    what = f"the SSH configuration {path} cannot be used for {asked}"
    try:
        return dict(config.lookup(asked))
    except KeyError as error:
        hint = "with CanonicalizeHostname give CanonicalDomains too, or give this host in full"
        raise ConfigError(f"{what}: it has no {error.args[0]}", hint=hint) from error
    except CouldNotCanonicalize as error:
        raise ConfigError(f"{what}: {error} is in none of its CanonicalDomains", hint="give this host in full") from error
    except ImportError as error:
        hint = "pip install invoke, or name another file as `ssh_config` of the target"
        raise ConfigError(f"{what}: its Match exec takes the package invoke", hint=hint) from error
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise ConfigError(f"{what}: {error}", hint="name another file as `ssh_config` of the target") from error


def _config_text(path: Path, depth: int = 0) -> str:
    """The configuration with its Include lines replaced by the files they name, which paramiko does not do (man 5 ssh_config)."""
    text, lines = path.read_text(), []
    if "include" not in text.lower():
        return text
    for line in text.splitlines():
        words = line.split("#")[0].replace("=", " ", 1).split()
        if not words or words[0].lower() != "include":
            lines.append(line)
        elif depth < DEEPEST_INCLUDE:
            for pattern in shlex.split(" ".join(words[1:])):
                names = sorted(glob.glob(str(Path("~/.ssh").expanduser() / Path(pattern).expanduser())))  # noqa: PTH207  (a pattern may be absolute)
                lines += [_config_text(Path(name), depth + 1) for name in names]
    return "\n".join(lines)


def _paths(text: Any) -> tuple[Path, ...]:
    return tuple(Path(part).expanduser() for part in shlex.split(str(text)) if part.lower() != "none")


def open_connection(
    settings: TargetSettings, stack: ExitStack, *, jumps: tuple[str, ...] = (), passed: tuple[str, ...] = ()
) -> PinnedTransport:
    """Connect, check the host key, authenticate. Everything opened, jump hosts too, is closed by `stack`.

    `jumps` stands for the configuration's own ProxyJump when it is not empty; `passed` are the hosts that wait for this one.

    Raises:
        HostUnreachable, ConnectTimeout, HostKeyUnknown, HostKeyChanged, AuthRejected, ConfigError.
    """
    route = route_from(settings)
    if jumps:
        route = replace(route, jumps=jumps)
    if route.where in passed:
        raise ConfigError(f"ProxyJump goes round in a circle: {' -> '.join((*passed, route.where))}")
    with connecting(settings.name, route.where, settings.connect_timeout_s):
        connection = PinnedTransport(_socket(settings, route, stack, passed))
        stack.callback(connection.close)
        recorded = _known_keys(route)
        _prefer_known_types(connection, recorded)
        _prefer_fast_ciphers(connection)
        connection.banner_timeout = connection.handshake_timeout = connection.auth_timeout = settings.connect_timeout_s
        connection.start_client(timeout=settings.connect_timeout_s)
        if not connection.initial_kex_done:
            raise TimeoutError
        _check_host_key(route, recorded, connection.get_remote_server_key())
        _authenticate(connection, route, stack)
        connection.set_keepalive(KEEPALIVE_S)
    return connection


def _socket(settings: TargetSettings, route: Route, stack: ExitStack, passed: tuple[str, ...]) -> Any:
    """A TCP socket, a channel through the jump hosts, or a ProxyCommand's."""
    if route.jumps:
        # the last of the list is reached through those before it, the first one as its own configuration says
        try:
            hop = urlsplit(f"ssh://{route.jumps[-1]}")
            through = replace(settings, host=hop.hostname or "", port=hop.port, user=hop.username, name=f"{settings.name} (jump host)")
        except ValueError as error:
            raise ConfigError(f"the SSH configuration has the jump host {route.jumps[-1]!r}: {error}") from error
        jump = open_connection(through, stack, jumps=route.jumps[:-1], passed=(*passed, route.where))
        channel = jump.open_channel("direct-tcpip", (route.host, route.port), ("127.0.0.1", 0), timeout=settings.connect_timeout_s)
        stack.callback(channel.close)
        return channel
    if route.proxy_command:
        return _command_socket(route.proxy_command, stack)
    try:
        sock = PromptSocket.to(route.host, route.port, settings.connect_timeout_s)
    except TimeoutError as error:
        what = f"{route.where} does not answer within {settings.connect_timeout_s:g} s"
        raise ConnectTimeout(what, hint="is the board on and in this network?", context={"target": settings.name}) from error
    stack.callback(sock.close)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    return sock


def _command_socket(command: str, stack: ExitStack) -> socket.socket:
    """The near end of a ProxyCommand, which has the far end as its input and output.

    Paramiko's own ProxyCommand waits for full buffers and never sees the command's end.
    """
    near, far = socket.socketpair()
    stack.callback(near.close)
    with far:
        process = subprocess.Popen(["/bin/sh", "-c", f"exec {command}"], stdin=far.fileno(), stdout=far.fileno(), start_new_session=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return near


def _known_keys(route: Route) -> list[paramiko.PKey]:
    keys: list[paramiko.PKey] = []
    for path in route.known_hosts:
        if path.is_file():
            stat = path.stat()
            entry = _host_keys(str(path), stat.st_mtime_ns, stat.st_size).lookup(route.known_name)
            keys += list(entry.values()) if entry is not None else []
    return keys


@functools.lru_cache(maxsize=16)
def _host_keys(path: str, _changed_ns: int, _size: int) -> paramiko.HostKeys:
    """A known_hosts file as it was at that time."""
    return paramiko.HostKeys(path)


def _prefer_known_types(connection: paramiko.Transport, keys: Sequence[paramiko.PKey]) -> None:
    """Ask for the kind of key that is recorded, as OpenSSH does; a server has several."""
    options = connection.get_security_options()
    recorded = [key.get_name() for key in keys]
    if "ssh-rsa" in recorded:
        recorded += ["rsa-sha2-512", "rsa-sha2-256"]
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in recorded)


def _prefer_fast_ciphers(connection: paramiko.Transport) -> None:
    """Ask for AES-GCM first, which needs no MAC beside it; one that lacks it (an old dropbear) takes what comes after."""
    options = connection.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda cipher: not cipher.startswith("aes128-gcm"))


def _check_host_key(route: Route, recorded: Sequence[paramiko.PKey], key: paramiko.PKey) -> None:
    if key in recorded:
        return
    file = route.known_hosts[0] if route.known_hosts else Path("~/.ssh/known_hosts").expanduser()
    line = f"{route.known_name} {key.get_name()} {key.get_base64()}"
    context = {"address": route.where, "fingerprint": key.fingerprint, "key_type": key.get_name(), "known_hosts": str(file)}
    if recorded:
        before = ", ".join(f"{each.fingerprint} ({each.get_name()})" for each in recorded)
        raise HostKeyChanged(
            f"the host key of {route.known_name} is {key.fingerprint} ({key.get_name()}); recorded is {before}",
            hint="another machine may be answering. If the board was set up anew, forget the old key with\n"
            f"  ssh-keygen -f {shlex.quote(str(file))} -R {shlex.quote(route.known_name)}",
            context={**context, "recorded": [each.fingerprint for each in recorded]},
        )
    raise HostKeyUnknown(
        f"the host key of {route.known_name} is not known: {key.fingerprint} ({key.get_name()})",
        hint="compare it with `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` on the board's own console; if it is the same, accept it with\n"
        f"  echo {shlex.quote(line)} >> {shlex.quote(str(file))}",
        context={**context, "line": line},
    )


def _authenticate(connection: paramiko.Transport, route: Route, stack: ExitStack) -> None:
    """Offer keys one by one: the SSH agent's, then those in files."""
    tried: list[str] = []
    for label, key in _keys(route, tried, stack):
        tried.append(f"{label} {key.fingerprint}")
        try:
            missing = connection.auth_publickey(route.user, key)
        except paramiko.BadAuthenticationType:
            break
        except paramiko.AuthenticationException:
            if not connection.is_active():
                break
            continue
        if not missing:
            return
        tried[-1] += f" (accepted, but the server asks for {' and '.join(missing)} too)"
        break
    raise AuthRejected(
        f"{route.where} took none of the keys offered",
        hint=f"put the public key into ~{route.user}/.ssh/authorized_keys there, or name the right one as `identity_file`; "
        "a key with a passphrase has to be in the SSH agent (ssh-add)",
        context={"address": route.where, "tried": tried or ["no key was found"]},
    )


def _keys(route: Route, tried: list[str], stack: ExitStack) -> Sequence[tuple[str, paramiko.PKey]]:
    """Keys in the order in which they are offered; what cannot be offered is noted in `tried`."""
    keys: list[tuple[str, paramiko.PKey]] = []
    public = [each.with_name(each.name + ".pub") for each in route.identities]
    ours = {path.read_text().split()[1] for path in public if path.is_file() and len(path.read_text().split()) > 1}
    try:
        agent = paramiko.Agent()
        stack.callback(agent.close)
        offered = [key for key in agent.get_keys() if not route.only_identities or key.get_base64() in ours]
        keys += [(f"SSH agent: {key.comment}", key) for key in offered]
    except (paramiko.SSHException, OSError) as error:
        tried.append(f"SSH agent: cannot be asked ({error})")
    for path in route.identities:
        if not path.is_file():
            if route.only_identities:
                tried.append(f"{path}: no such file")
            continue
        try:
            loaded = paramiko.PKey.from_path(path)
        except TypeError:  # what `cryptography` says of an encrypted key without a passphrase
            tried.append(f"{path}: has a passphrase and is not in the SSH agent")
        except (ValueError, OSError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
            tried.append(f"{path}: cannot be read ({str(error)[:100]})")
        else:
            keys.append((str(path), loaded))
    return keys
