"""What a stage takes: CPU time, time, memory, bytes to and from the server."""

import json
import resource
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Taken:
    """What a stage took.

    Attributes:
        cpu_s: CPU seconds of this process, all its threads, and of processes it started.
        wall_s: seconds.
        peak_mb: the most memory of the process while it was in the stage, libraries and all.
        sent: bytes that the server took.
        received: bytes of results that it gave.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_mb: float = 0.0
    sent: int = 0
    received: int = 0


@dataclass
class Meter:
    """Measures the stages of one process, by name. A stage that is entered again is added to.

    Attributes:
        url: of the server.
        profile: gives what is entered while a stage of a name runs; None: nothing is profiled.
        stages: what each took, in the order in which they began.
    """

    url: str
    profile: Callable[[str], AbstractContextManager[Any]] | None = None
    stages: dict[str, Taken] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        taken = self.stages.setdefault(name, Taken())
        sent, received = self._totals()
        _forget_peak()
        wall, cpu = time.perf_counter(), _cpu()
        with self.profile(name) if self.profile else nullcontext():
            yield
        taken.cpu_s += _cpu() - cpu
        taken.wall_s += time.perf_counter() - wall
        taken.peak_mb = max(taken.peak_mb, _peak_mb())
        after = self._totals()
        taken.sent += after[0] - sent
        taken.received += after[1] - received

    def _totals(self) -> tuple[int, int]:
        with urllib.request.urlopen(f"{self.url}/totals") as reply:
            totals = json.load(reply)
        return totals["taken"], totals["given"]


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _forget_peak() -> None:
    """Let the peak begin anew at what the process has now, where the system (Linux) can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 20)
