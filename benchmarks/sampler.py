"""Where a stage's CPU time goes, by looking at the main thread every few milliseconds.

What the process used since the last look, DuckDB's threads included, counts for the function that
the main thread is in. Nothing is slowed down by that, other than by a profiler that follows each call.
"""

import sys
import sysconfig
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

EVERY_SECONDS = 0.002
OURS = str(Path(__file__).parents[1])
ROOTS = (f"{OURS}/", f"{sysconfig.get_paths()['purelib']}/", f"{sysconfig.get_paths()['stdlib']}/")


class Sampler:
    """Looks at the thread that makes it, between its start and its end.

    Attributes:
        seconds: CPU seconds by function, and the line of this project that it is called from.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Sampler":
        sys.setswitchinterval(EVERY_SECONDS / 10)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        before = time.process_time()
        while not self._over.wait(EVERY_SECONDS):
            frame = sys._current_frames().get(self._watched)  # noqa: SLF001  (there is no other way)
            now = time.process_time()
            self.seconds[_place(frame)] += now - before
            before = now


def _place(frame: FrameType | None) -> str:
    """Name a function, and the line of this project that led to it."""
    if frame is None:
        return "?"
    inner = f"{_short(frame.f_code.co_filename)}: {frame.f_code.co_qualname}"
    while frame is not None and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    if frame is None:
        return inner
    outer = f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"
    name = frame.f_code.co_qualname
    return f"{outer} {name}" if inner.endswith(f": {name}") else f"{outer} {name} -> {inner}"


def _short(file: str) -> str:
    for root in ROOTS:
        file = file.removeprefix(root)
    return file
