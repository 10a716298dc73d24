"""First contact: is there a Python, where is our folder, does it hold this agent? Then it runs. One command for any POSIX shell.

The command is `sh -c SCRIPT`, so the login shell (fish, csh) only has to pass quoted words on. It becomes the agent, which says hello, or
its answer is one marked line: whatever a login file prints around it is skipped.
"""

import re
from collections.abc import Sequence

from edgec.pipeline.core.errors import CommandFailed, DeviceFull, DeviceReadOnly, PythonMissing, TargetError
from edgec.pipeline.core.protocols import Transport

OLDEST = (3, 6)
MARK = "EDGEC-PLACE"
SCRIPT = "; ".join(
    [
        'say() { printf "' + MARK + '\\t%s\\t%s\\t%s\\t%s\\t%s\\t%s\\n" "$@"',
        "exit 0",
        "}",
        'go() { exec "$p" "$PWD/agents/$a" --folder "$PWD" "$@"',
        "}",
        "f=$1 q=$2 a=$3 t=$4 w=$PWD",
        "shift 4",
        'case $f in "~") f=$HOME;; "~/"*) f=$HOME/${f#"~/"};; esac',
        'p=$(command -v "$q") || say no-python - - - - -',
        'if cd "$f" 2>/dev/null; then if [ -n "$t" ]; then m=$(LC_ALL=C mv -f "$t" "agents/$a" 2>&1) || say no-agent "$p" - "$PWD" - "$m"',
        'go "$@"',
        "fi",
        'if [ -e .edgec-folder ] && [ -f "agents/$a" ]; then go "$@"; fi',
        'cd "$w"',
        "fi",
        'v=$("$p" -S -c "import sys; print(sys.version_info[0] * 100 + sys.version_info[1])" 2>/dev/null) || say no-python "$p" - - - -',
        'if [ -e "$f" ] && [ ! -e "$f/.edgec-folder" ]; then o=$(ls -A "$f" | grep -v -x -e agents -e .edgec-folder.tmp | head -n 1)',
        'if [ -n "$o" ]; then say foreign "$p" "$v" "$f" - "$o"; fi',
        "fi",
        'm=$(LC_ALL=C mkdir -p "$f/agents" 2>&1) || say no-folder "$p" "$v" "$f" - "$m"',
        'm=$(cd "$f" 2>&1) || say no-folder "$p" "$v" "$f" - "$m"',
        'cd "$f"',
        'if [ -f "agents/$a" ]; then go "$@"; fi',
        'k=$(LC_ALL=C df -Pk . | tail -n 1)',
        'if [ -w agents ]; then say absent "$p" "$v" "$PWD" "$k" -; fi',
        'say read-only "$p" "$v" "$PWD" "$k" -',
    ]
)  # fmt: skip


def command(*, folder: str, python: str, agent: str, temporary: str = "", arguments: Sequence[str] = ()) -> list[str]:
    """The words of the first contact. It becomes the file `agent` of the folder, with these arguments, where that is there; the file
    `temporary`, an upload, is put in its place first. Without an agent's name it only looks.
    """
    return ["sh", "-c", SCRIPT, "sh", folder, python, agent, temporary, *arguments]


def look(transport: Transport, *, folder: str, python: str, agent_bytes: int, timeout_s: float) -> str:
    """Find Python and the folder, make the folder, see whether the agent's file would fit; the folder's path on the target.

    Raises:
        PythonMissing, DeviceFull, DeviceReadOnly, CommandFailed, and what the transport raises.
    """
    status, out, err = transport.run(command(folder=folder, python=python, agent=""), timeout_s=timeout_s)
    line = next((MARK + each.partition(MARK)[2] for each in out.splitlines() if MARK + "\t" in each), None)
    if line is None:
        context = {"target": transport.name, "status": status, "stdout": out[-1000:], "stderr": err[-1000:]}
        raise CommandFailed(f"{transport.name} does not run a POSIX shell command", hint="does the login shell end early?", context=context)
    return read(line, transport.name, folder, python, agent_bytes)


def read(line: str, name: str, folder: str, python: str, agent_bytes: int) -> str:
    """The answer's meaning: the folder in which there is no agent yet, or the fault it tells."""
    state, path, version, place, disk, said = (line.split("\t")[1:] + [""] * 6)[:6]
    context: dict[str, object] = {"target": name, "folder": place}
    if state == "no-python":
        found = "there is none" if path == "-" else f"{path} does not run"
        what = f"{name} has no Python {python!r}: {found}"
        raise PythonMissing(what, hint="install python3 there, or name another interpreter as `python` of the target", context=context)
    if state == "no-agent":
        raise CommandFailed(f"the agent cannot be put in place on {name}: {said}", context=context)
    number = divmod(int(version), 100) if re.fullmatch("[0-9]{3,5}", version) else None
    if number is None or number < OLDEST:
        shown = version[:40] if number is None else ".".join(map(str, number))
        what = f"{path} on {name} is Python {shown}; the agent needs 3.6 or newer"
        raise PythonMissing(what, hint="name another interpreter as `python` of the target", context=context)
    if state == "foreign":
        hint = "name an empty or a new `folder` of the target"
        raise TargetError(f"{place} on {name} is not edgec's: it holds {said!r}; nothing was written", hint=hint, context=context)
    if state == "no-folder":
        if "Read-only file system" in said:
            raise DeviceReadOnly(f"the file system for {folder} on {name} is mounted read-only", context=context)
        if "No space left" in said:
            raise DeviceFull(f"there is no space for {folder} on {name}", hint="free some space there", context=context)
        raise TargetError(f"{folder} cannot be made on {name}: {said}", hint="name another `folder` of the target", context=context)
    free = _free_bytes(disk)
    if state == "read-only":
        hint = "is it mounted read-only, or does it belong to another user?"
        raise DeviceReadOnly(f"the folder {place} on {name} cannot be written", hint=hint, context=context)
    if free is not None and free < 2 * agent_bytes:
        context |= {"free_bytes": free, "needed_bytes": 2 * agent_bytes}
        raise DeviceFull(f"{name} has {free} bytes left for {place}", hint="free some space there", context=context)
    return place


def _free_bytes(disk: str) -> int | None:
    """From a line of `df -Pk` (POSIX: file system, blocks, used, available, capacity, mount point)."""
    words = disk.split()
    return int(words[3]) * 1024 if len(words) > 5 and re.fullmatch("[0-9]{1,18}", words[3]) else None
