"""Starts the agent (`--folder PATH [--memory BYTES]`) or, from it, the process of one network (`--runner [BYTES]`).

The protocol gets the standard output for itself: file descriptor 1 becomes stderr, so that a print, of Python or of a runtime's C++,
cannot break a line. Each imports only its own half: Python compiles what it imports of a zip file anew at each start.
"""

import os
import sys
from typing import List

from edgec.targets.agent import importer


def main(arguments: List[str]) -> int:
    """Run; the exit status of the process."""
    importer.install()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if arguments[:1] == ["--runner"] and len(arguments) <= 2:
        from edgec.targets.agent import network

        return network.main(sys.stdin.buffer, replies, *map(int, arguments[1:]))
    if len(arguments) in (2, 4) and arguments[::2] == ["--folder", "--memory"][: len(arguments) // 2]:
        from edgec.targets.agent.folder import Folder
        from edgec.targets.agent.server import Server

        return Server(Folder(arguments[1]), sys.stdin.buffer, replies, *map(int, arguments[3:])).run()
    print("usage: edgec-agent --folder PATH [--memory BYTES]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
