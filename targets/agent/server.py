"""Answers the host's requests, one at a time. The end of its input, or two minutes without a word from the host, ends it.

A malformed, oversized or unknown request is answered with an error; so is a fault of our own, with its trace on stderr.

What every deploy needs is imported here, so that the digest in the hello speaks for it; what measures and describes is imported by the
operation that needs it: Python compiles what it imports of a zip file anew at each start.
"""

import errno
import os
import queue
import sys
import threading
import time
from typing import Any, BinaryIO, Callable, Dict, Optional

from edgec.targets.agent.children import Children
from edgec.targets.agent.folder import Folder, checked_digest, checked_name, digest_of
from edgec.targets.agent.lock import SILENCE_S
from edgec.targets.agent.objects import Objects
from edgec.targets.agent.releases import Releases, prune_objects
from edgec.targets.agent.trust import Signature, Trust, fingerprint, key_from
from edgec.targets.agent.wire import MARKER, PROTOCOL, Failure, Fields, Lines, decode, encode

GRACE_S = 30.0
"""Once the host is gone, what is being written has this long to come to its end; a disk that hangs must not hold the lock for ever."""

Event = Callable[[Dict[str, Any]], None]
Answer = Dict[str, Any]


class Server:
    """The agent. `requests` and `replies` are the two ends of the channel; `memory_bytes` bounds each network's process."""

    def __init__(self, folder: Folder, requests: BinaryIO, replies: BinaryIO, memory_bytes: Optional[int] = None) -> None:
        self.folder = folder
        self.objects = Objects(folder)
        self.children = Children(memory_bytes, folder.at("env"))
        self._requests = requests
        self._replies = replies
        self._queue: queue.Queue[Optional[Dict[str, Any]]] = queue.Queue()
        self._heard = time.monotonic()

    def run(self) -> int:
        """Say hello, then answer until the host is gone."""
        own = os.path.abspath(sys.argv[0])
        hello = {
            "protocol": PROTOCOL,
            "python": sys.version.split()[0],
            "pid": os.getpid(),
            "folder": self.folder.path,
            "agent": digest_of(own) if os.path.isfile(own) else "",
        }
        try:
            self._replies.write(MARKER + encode(hello))
            self._replies.flush()
            for target in (self._read, self._watch):
                threading.Thread(target=target, daemon=True).start()
            for request in iter(self._queue.get, None):
                self._answer(request)
        except BrokenPipeError:  # the host is gone: nobody is left to be told
            return 0
        finally:
            self.children.end()
        return 0

    def _read(self) -> None:
        lines = Lines()
        for data in iter(lambda: os.read(self._requests.fileno(), 1 << 16), b""):
            self._heard = time.monotonic()
            self.folder.lock.heard()
            for line in lines.feed(data):
                try:
                    request = decode(line)
                except Failure as failure:
                    request = {"op": None, "failure": failure}
                if request.get("op") != "beat":
                    self._queue.put(request)
        self._end()

    def _watch(self) -> None:
        while time.monotonic() - self._heard < SILENCE_S:
            time.sleep(1.0)
        self._end()

    def _end(self) -> None:
        """Stop the networks; what is being written is finished first, which takes seconds, or never on a disk that hangs."""
        grace = threading.Timer(GRACE_S, os._exit, (1,))
        grace.daemon = True
        grace.start()
        self.children.end()
        self._queue.put(None)

    def _answer(self, request: Dict[str, Any]) -> None:
        number = request.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            number = None
        event = lambda content: self._send({"id": number, "event": content})
        try:
            operation = chosen_operation(number, request)
            self._send({"id": number, "ok": operation(self, Fields(request), event)})
        except Failure as failure:
            self._send({"id": number, "error": failure.reply()})
        except BrokenPipeError:
            raise
        except OSError as error:
            self._send({"id": number, "error": failure_from(error, self.folder).reply()})
        except Exception as error:  # noqa: BLE001  a fault of our own is told to the host, which raises it
            import traceback

            traceback.print_exc()
            what = "the agent failed: %s: %s" % (type(error).__name__, ascii(str(error))[:500])
            self._send({"id": number, "error": Failure("AgentError", what).reply()})

    def _send(self, message: Dict[str, Any]) -> None:
        self._replies.write(encode(message))
        self._replies.flush()


def chosen_operation(number: Optional[int], request: Dict[str, Any]) -> "Operation":
    """The operation that a request names.

    Raises:
        Failure: ProtocolViolation.
    """
    if isinstance(request.get("failure"), Failure):
        raise request["failure"]
    if number is None:
        raise Failure("ProtocolViolation", "a request has no whole number as id")
    op = request.get("op")
    if not isinstance(op, str) or op not in OPERATIONS:
        raise Failure("ProtocolViolation", "this agent has no operation %r" % (str(op)[:100],), known=sorted(OPERATIONS))
    return OPERATIONS[op]


def failure_from(error: OSError, folder: Folder) -> Failure:
    """What the operating system refused, in our words."""
    path = error.filename if isinstance(error.filename, str) else folder.path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("DeviceFull", "no space is left for %s" % path, path=path)
    if error.errno == errno.EROFS:
        return Failure("DeviceReadOnly", "the file system of %s is mounted read-only" % path, path=path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Failure("TargetError", "this user may not write %s" % path, path=path)
    return Failure("TargetError", "the device refuses: %s" % error, path=path, errno=error.errno)


def op_facts(server: Server, _fields: Fields, _event: Event) -> Answer:
    """What the device is."""
    from edgec.targets.agent import facts

    return facts.gather(server.folder.path)


def op_environment(server: Server, fields: Fields, _event: Event) -> Answer:
    """This interpreter, and the private environment of a runtime."""
    from edgec.targets.agent import preparing

    return preparing.describe(server.folder, fields)


def op_prepare(server: Server, fields: Fields, event: Event) -> Answer:
    """Make a private environment of wheels."""
    from edgec.targets.agent import preparing

    server.folder.need_lock()
    return preparing.prepare(server.objects, fields, event)


def op_conditions(_server: Server, _fields: Fields, _event: Event) -> Answer:
    """In which state the device is now."""
    from edgec.targets.agent import conditions

    return conditions.observe()


def op_lock(server: Server, fields: Fields, _event: Event) -> Answer:
    """Take charge until this agent ends; with `by_force` the agent that is in charge is ended."""
    server.folder.take_charge(fields.text("owner"), fields.flag("by_force"))
    return {}


def op_holder(server: Server, _fields: Fields, _event: Event) -> Answer:
    """Who is in charge, if anybody."""
    return {"holder": server.folder.lock.holder()}


def op_trust(server: Server, fields: Fields, _event: Event) -> Answer:
    """Trust the keys of these lines from now on, beside those trusted already or (`only`) instead of them; none at all: ask for no
    signatures any more.
    """
    server.folder.need_lock()
    trust, lines = Trust(server.folder.path), fields.texts("keys")
    try:
        new = {fingerprint(key_from(line)): line for line in lines}
    except ValueError as error:
        raise Failure("ProtocolViolation", "a key to be trusted is %s" % error) from error
    if not fields.flag("only"):
        new = dict(trust.lines(), **new)
    trust.write(new)
    return {"trusted": sorted(trust.keys() or {})}


def op_trusted(server: Server, _fields: Fields, _event: Event) -> Answer:
    """Fingerprints of the trusted keys; null where no signatures are asked for."""
    keys = Trust(server.folder.path).keys()
    return {"trusted": None if keys is None else sorted(keys)}


def op_have(server: Server, fields: Fields, _event: Event) -> Answer:
    """Which of these files are not here, whole."""
    server.folder.need_lock()
    return {"missing": server.objects.missing([checked_digest(each) for each in fields.array("digests")])}


def op_reserve(server: Server, fields: Fields, _event: Event) -> Answer:
    """Where to upload a file to."""
    server.folder.need_lock()
    size = fields.whole("size")
    return server.objects.reserve(checked_digest(fields.text("digest")), size, fields.whole("total", size), fields.flag("packed"))


def op_commit(server: Server, fields: Fields, _event: Event) -> Answer:
    """An upload is complete."""
    server.folder.need_lock()
    server.objects.commit(checked_digest(fields.text("digest")), fields.whole("size"), fields.flag("packed"))
    return {}


def op_stage(server: Server, fields: Fields, _event: Event) -> Answer:
    """Build a release of files that are here."""
    server.folder.need_lock()
    releases = Releases(server.folder, fields.text("app"))
    signature = Signature.of(fields.optional_object("signature"))
    name, manifest, files = fields.text("release"), fields.object("manifest"), fields.object("files")
    return {"made": releases.stage(name, manifest, files, server.objects, signature, fields.flag("signed"))}


def op_verify(server: Server, fields: Fields, _event: Event) -> Answer:
    """Hash every file of a release anew."""
    return {"problems": Releases(server.folder, fields.text("app")).problems(fields.text("release"))}


def op_activate(server: Server, fields: Fields, event: Event) -> Answer:
    """Switch to a release and see whether it is healthy; if not, switch back."""
    from edgec.targets.agent import trial

    server.folder.need_lock()
    releases, name = Releases(server.folder, fields.text("app")), fields.text("release")
    before = releases.standing()
    previous = releases.activate(name, fields.flag("signed"))
    healthy = False
    try:
        trial.prove(releases.current, fields, server.children, event)
        healthy = True
    except Failure as failure:
        back = "nothing is" if before[0] is None else "it stays" if before[0] == name else "%s is" % before[0]
        what = "release %s is not healthy: %s; %s active" % (name, failure.what, back + ("" if before[0] in (None, name) else " again"))
        raise Failure("HealthCheckFailed", what, **dict(failure.context, cause=failure.type, active=before[0])) from failure
    finally:
        if not healthy and before[0] != name:
            releases.restore(before)
    return {"previous": previous}


def op_rollback(server: Server, fields: Fields, _event: Event) -> Answer:
    """Switch back."""
    server.folder.need_lock()
    return dict(Releases(server.folder, fields.text("app")).rollback(fields.flag("signed")))


def op_releases(server: Server, fields: Fields, _event: Event) -> Answer:
    """All releases of an application."""
    return {"releases": Releases(server.folder, fields.text("app")).all()}


def op_prune(server: Server, fields: Fields, _event: Event) -> Answer:
    """Remove old releases and files that nothing uses."""
    server.folder.need_lock()
    removed = Releases(server.folder, fields.text("app")).prune(fields.whole("keep", low=1))
    return {"releases": removed, "objects": prune_objects(server.objects, fields.number("unused_s", 86400.0))}


def op_profile(server: Server, fields: Fields, event: Event) -> Answer:
    """Measure networks turn by turn."""
    from edgec.targets.agent.profile import profile

    server.folder.need_lock()
    return profile(fields, server.objects, server.children, event)


def op_evaluate(server: Server, fields: Fields, event: Event) -> Answer:
    """Top-1 predictions of one network over a set of inputs."""
    from edgec.targets.agent.child import Child
    from edgec.targets.agent.profile import Job

    server.folder.need_lock()
    job = Job(Fields(fields.object("job")), server.objects)
    with Child(server.children, fields.number("patience_s", 60.0, low=0.1)) as child:
        job.open(child)
        return child.call("evaluate", {"inputs": job.inputs, "batch": fields.whole("batch", 1, 1)}, event=event)


def op_infer(server: Server, fields: Fields, event: Event) -> Answer:
    """Outputs of one network, as a file to be fetched and then forgotten."""
    from edgec.targets.agent.child import Child
    from edgec.targets.agent.profile import Job

    server.folder.need_lock()
    job = Job(Fields(fields.object("job")), server.objects)
    name = "%d-%d.npz" % (os.getpid(), fields.whole("id"))
    target = server.folder.at("outgoing", name)
    with Child(server.children, fields.number("patience_s", 60.0, low=0.1)) as child:
        job.open(child)
        answer = child.call("infer", {"inputs": job.inputs, "target": target}, event=event)
    return {"path": target, "name": name, "version": answer["version"], "digest": digest_of(target), "size": os.path.getsize(target)}


def op_fingerprint(server: Server, fields: Fields, _event: Event) -> Answer:
    """What an engine built here would be tied to."""
    from edgec.targets.agent.child import Child

    with Child(server.children, fields.number("patience_s", 60.0, low=0.1)) as child:
        return child.call("fingerprint", {})


def op_build(server: Server, fields: Fields, _event: Event) -> Answer:
    """An engine from a network that is here; it becomes an object. A crash of the builder is an answer."""
    from edgec.targets.agent.child import Child

    server.folder.need_lock()
    job, timeout_s = fields.object("job"), fields.number("timeout_s", 1800.0, low=1.0, high=86400.0)
    target = server.folder.at("outgoing", "%d-%d.engine" % (os.getpid(), fields.whole("id")))
    request = {
        "network": server.objects.path(checked_digest(job.get("network"))),
        "engine": target,
        "timings": server.folder.at("timings", checked_name(fields.text("device"), "device")),
        "timeout_s": timeout_s,
    }
    with Child(server.children, timeout_s + 5.0) as child:
        built = child.call("build", dict(job, **request))
    return dict(built, digest=server.objects.adopt(target))


def op_forget(server: Server, fields: Fields, _event: Event) -> Answer:
    """A result has been fetched."""
    server.folder.need_lock()
    os.unlink(server.folder.at("outgoing", checked_name(fields.text("name"), "result")))
    return {}


def op_golden(server: Server, fields: Fields, event: Event) -> Answer:
    """Run a release's network on its golden inputs and hold the outputs against the references."""
    from edgec.targets.agent import trial

    server.folder.need_lock()
    path = Releases(server.folder, fields.text("app")).path(fields.text("release"))
    return trial.golden(path, fields, server.children, event)


def op_contents(server: Server, _fields: Fields, _event: Event) -> Answer:
    """What of ours lies on the device."""
    apps = []
    for name in server.folder.apps():
        releases = Releases(server.folder, name)
        apps.append({"app": name, "active": releases.active(), "releases": len(releases.all())})
    return {"apps": apps, "size_bytes": server.folder.size_bytes()}


def op_remove(server: Server, _fields: Fields, _event: Event) -> Answer:
    """Delete the whole folder."""
    server.folder.need_lock()
    server.folder.remove()
    return {}


Operation = Callable[[Server, Fields, Event], Answer]
OPERATIONS: Dict[str, Operation] = {name[3:]: function for name, function in sorted(globals().items()) if name.startswith("op_")}
