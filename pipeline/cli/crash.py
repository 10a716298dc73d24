"""A bug: the trace goes into a file, one line to the user."""

import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from edgec.pipeline.core.errors import EdgecError


def bug_from(error: BaseException, words: Sequence[str]) -> EdgecError:
    """Write the trace under .edgec/crashes, or where temporary files go, and say where it is."""
    import edgec

    text = "\n".join(
        [
            f"edgec {edgec.__version__}, Python {platform.python_version()}, {platform.platform()}",
            shlex.join(["edgec", *words]),
            "".join(traceback.format_exception(error)),
        ]
    )
    summary = f"edgec has a bug: {type(error).__name__}" + (f": {error}" if str(error) else "")
    hint = "please report it with the trace"
    for folder in (Path(".edgec") / "crashes", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 10**9:09d}.txt"
            file.write_text(text, encoding="utf-8")
        except OSError:
            continue  # the next place
        return EdgecError(summary, hint=hint, context={"trace": str(file)})
    print(text, file=sys.stderr)  # noqa: T201  (no file can be written anywhere)
    return EdgecError(summary, hint=hint, context={"trace": "stderr"})
