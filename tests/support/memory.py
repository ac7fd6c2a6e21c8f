"""How much memory this process took at most."""

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return this process's own peak memory.

    Not ru_maxrss where it can be had otherwise: on Linux a child inherits its parent's.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
