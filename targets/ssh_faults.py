"""The seam to paramiko: each of its exceptions, and each socket error, becomes one of ours."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko
from paramiko.ssh_exception import CouldNotCanonicalize, IncompatiblePeer

from edgec.pipeline.core.errors import (
    AuthRejected,
    CommandFailed,
    ConfigError,
    ConnectTimeout,
    DeadlineExceeded,
    HostUnreachable,
    TargetError,
)

GONE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN)
SLOW = "is it overloaded, or is something else listening there? `connect_timeout_s` of the target sets the patience"


@contextmanager
def connecting(name: str, where: str, timeout_s: float) -> Iterator[None]:
    """Faults while a connection is made. `where` is user@host:port."""
    context = {"target": name, "address": where}
    start = time.monotonic()
    late = ConnectTimeout(f"{where} accepts the connection and does not answer within {timeout_s:g} s", hint=SLOW, context=context)
    try:
        yield
    except paramiko.AuthenticationException as error:
        raise AuthRejected(
            f"{where} did not accept the login: {error}", hint="ssh-add the right key, or set identity_file", context=context
        ) from error
    except (paramiko.ConfigParseError, CouldNotCanonicalize) as error:
        raise ConfigError(f"the SSH configuration for {name} cannot be used: {error}") from error
    except paramiko.hostkeys.InvalidHostKey as error:
        raise ConfigError(f"a known_hosts file has a line that cannot be read: {error.line}") from error
    except IncompatiblePeer as error:
        raise TargetError(f"{where} speaks no common SSH algorithm: {error}", hint="update its SSH server", context=context) from error
    except paramiko.ChannelException as error:
        raise HostUnreachable(f"the jump host cannot reach {where}: {error}", context=context) from error
    except (paramiko.SSHException, EOFError) as error:
        if time.monotonic() - start >= 0.9 * timeout_s:
            raise late from error
        hint = "is that really an SSH server, and does it still take connections?"
        raise HostUnreachable(f"{where} broke off the SSH connection: {error}", hint=hint, context=context) from error
    except TimeoutError as error:
        raise late from error
    except socket.gaierror as error:
        what = f"the name {where.rpartition('@')[2].rpartition(':')[0]!r} is not known"
        raise HostUnreachable(what, hint="check `host` of the target, or ~/.ssh/config", context=context) from error
    except OSError as error:
        hint = "is the board on, and is its SSH server running on that port?"
        raise HostUnreachable(f"{where} cannot be reached: {error.strerror or error}", hint=hint, context=context) from error


def may_pass(error: HostUnreachable) -> bool:
    """Whether another attempt may help: the server broke off before anybody logged in, as one does that has too many at its door
    (MaxStartups, man 5 sshd_config) or is just starting. A host that refuses, or is not there, is said at once.
    """
    cause = error.__cause__
    return isinstance(cause, (paramiko.SSHException, EOFError, ConnectionResetError, BrokenPipeError)) and not isinstance(
        cause, (paramiko.ChannelException, IncompatiblePeer)
    )


@contextmanager
def working(name: str, doing: str) -> Iterator[None]:
    """Faults on a connection that stands."""
    context = {"target": name, "doing": doing}
    try:
        yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"{name} stopped answering while {doing}", hint="was the link cut?", context=context) from error
    except paramiko.SFTPError as error:
        raise CommandFailed(f"{name}: the SFTP server failed while {doing}: {error}", context=context) from error
    except (paramiko.SSHException, EOFError, ConnectionError) as error:
        raise broken(name, doing, error) from error
    except OSError as error:
        if str(error) == "Socket is closed" or error.errno in GONE:
            raise broken(name, doing, error) from error
        # SFTP errors come as OSError; code 4, "Failure", is all that a full or a read-only disk says
        raise CommandFailed(f"{name} refuses while {doing}: {error.strerror or error}", context=context) from error


def broken(name: str, doing: str, error: BaseException) -> HostUnreachable:
    """The link is gone."""
    hint = "the old or the new release is active, whole; run the command again, an interrupted upload goes on where it stopped"
    return HostUnreachable(
        f"the link to {name} broke while {doing}", hint=hint, context={"target": name, "doing": doing, "cause": str(error)}
    )
