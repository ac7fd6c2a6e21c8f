"""What one input may cost a parser: no error but ours, at most 5 s of CPU and 512 MiB."""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable

from emoguard import EmoGuardError
from tests.support.memory import peak_bytes

SECONDS = 5
BYTES = 512 * 2**20


def check(read: Callable[[], object]) -> str:
    """Read one input in this process; return the sentence it was refused with, "" if it was not."""
    start = time.process_time()
    refusal = _refusal(read)
    assert time.process_time() - start <= SECONDS
    return refusal


def _refusal(read: Callable[[], object]) -> str:
    try:
        read()
    except EmoGuardError as error:
        assert len(str(error)) < 2000, "a refusal is one sentence"  # noqa: PT017
        assert str(error).encode("utf-8")  # noqa: PT017
        return str(error)
    return ""


def check_in_child(read: Callable[[], object]) -> dict[str, float]:
    """Read one input in a child that may take 512 MiB more than this process; return its cost."""
    inward, outward = os.pipe()
    child = os.fork()
    if not child:
        os.close(inward)
        os.write(outward, _measured(read))
        os._exit(0)
    os.close(outward)
    with os.fdopen(inward, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}"
    cost = json.loads(data)
    assert not cost["error"], cost["error"]
    assert cost["seconds"] <= SECONDS, cost
    assert cost["bytes"] <= BYTES, cost
    return cost


def _measured(read: Callable[[], object]) -> bytes:
    used = int(_status("VmSize")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (4 * SECONDS, 4 * SECONDS))
    start, before, error = time.process_time(), peak_bytes(), ""  # a child begins with all we hold
    try:
        _refusal(read)
    except BaseException:  # noqa: BLE001  (the parent says what it was)
        error = traceback.format_exc()[-3000:]
    cost = {"error": error, "seconds": time.process_time() - start, "bytes": peak_bytes() - before}
    return json.dumps(cost).encode()


def _status(name: str) -> str:
    if sys.platform != "linux":
        return "0"
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        return file.read().partition(f"{name}:")[2].split()[0]
