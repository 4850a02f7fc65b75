"""Where a stage's CPU time goes, by looking at the main thread every few milliseconds.

What the process used since the last look, DuckDB's threads included, counts for the functions that
the main thread is in. A profiler that follows each call would make small functions look dear.
"""

import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

EVERY_SECONDS = 0.002
OURS = f"{Path(__file__).parents[1]}/"
BELOW = " > "


class Sampler:
    """Looks at the thread that makes it, between its start and its end.

    Attributes:
        seconds: CPU seconds by the functions of this project that were running, outermost first.
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
            self.seconds[_way(frame)] += now - before
            before = now


def _way(frame: FrameType | None) -> str:
    """Name the functions of this project that are running, from the outermost one on."""
    names = []
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(OURS) and not frame.f_code.co_name.startswith("<"):
            names.append(f"{file.removeprefix(OURS)}: {frame.f_code.co_qualname}")
        frame = frame.f_back
    return BELOW.join(reversed(names))
