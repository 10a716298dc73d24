"""What a network's process may take: it is the first that the kernel ends when memory runs out, it leaves no core file, and its own memory
can be bounded, so that a large network fails alone, and at once, instead of pushing a small board into swapping.
"""

import resource
from typing import Optional


def confine(memory_bytes: Optional[int]) -> None:
    """Limit this process. `memory_bytes` bounds what it may allocate (RLIMIT_DATA, man 2 getrlimit: private writable memory since Linux
    4.7), not what it may map of files or devices: a GPU's runtime reserves far more addresses than memory.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:  # no /proc, or a container that forbids it: the kernel chooses by size, as it does anyway
        return


def oom_kills() -> Optional[int]:
    """How many processes the kernel has ended for want of memory since boot (/proc/vmstat, Linux 4.13); None where it does not say."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), None)
    except OSError:
        return None
