"""Is the release that has just become active healthy? Its golden check once more, through `current` as an application would load it, and
the target's own health command. The operations of the server put the old release back when it is not.
"""

import os
import time
from typing import Any, Callable, Dict, List

from edgec.targets.agent.children import Children
from edgec.targets.agent.folder import checked_name
from edgec.targets.agent.wire import Failure, Fields

Event = Callable[[Dict[str, Any]], None]
LAST_BYTES = 2000
"""Of a health command's output that are told when it fails."""


def golden(path: str, fields: Fields, children: Children, event: Event) -> Dict[str, Any]:
    """Run the network of the release at `path` on its golden inputs and hold the outputs against the references."""
    from edgec.targets.agent.child import Child

    file, inputs = (os.path.join(path, checked_name(fields.text(key), "file")) for key in ("file", "golden"))
    for each in (file, inputs):
        if not os.path.isfile(each):
            raise Failure("AgentError", "the release has no file %s" % os.path.basename(each))
    tolerance = Fields(fields.object("tolerance"))
    max_abs, top1 = tolerance.number("max_abs"), tolerance.number("top1", high=1.0)
    with Child(children, fields.number("patience_s", 60.0, low=0.1)) as child:
        child.call("open", {"runtime": fields.text("runtime"), "path": file, "threads": fields.whole("threads", 1, 1)})
        answer = child.call("golden", {"golden": inputs}, event=event)
    worst = answer["max_abs_error"]
    answer["passed"] = worst is not None and worst <= max_abs and answer["agree"] >= top1 * answer["n"]
    return answer


def prove(current: str, fields: Fields, children: Children, event: Event) -> None:
    """Both checks; each only where the request asks for it.

    Raises:
        Failure: whatever is wrong.
    """
    check = fields.optional_object("check")
    if check is not None and not golden(current, Fields(check), children, event)["passed"]:
        raise Failure("GoldenCheckFailed", "its outputs are not those of the reference")
    words = fields.texts("health")
    if words:
        run_health(words, current, fields.number("health_s", 30.0, low=0.1), children)


def run_health(words: List[str], current: str, patience_s: float, children: Children) -> None:
    """Run the health command, words and no shell, in the active release's folder; status 0 within its time means healthy.

    Raises:
        Failure: CommandFailed.
    """
    import signal
    import subprocess
    import tempfile

    with tempfile.TemporaryFile(dir=os.path.dirname(current)) as output:
        try:
            process = subprocess.Popen(
                words, cwd=current, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except (OSError, ValueError) as error:
            raise Failure("CommandFailed", "the health command cannot be started: %s" % error) from error
        end = time.monotonic() + patience_s
        while process.poll() is None and time.monotonic() < end and not children.ended.wait(0.05):
            pass
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Failure("CommandFailed", "the health command did not end within %g s" % patience_s, output=last_of(output))
        if process.returncode != 0:
            what = "the health command ended with status %d" % process.returncode
            raise Failure("CommandFailed", what, status=process.returncode, output=last_of(output))


def last_of(output: Any) -> str:
    """The end of what a command has written."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - LAST_BYTES))
    text: str = output.read().decode("utf-8", "replace")
    return text
