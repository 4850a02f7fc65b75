"""Processes of their own for a test, forked from a server that has imported everything already.

Nothing but imports happens in that server, so that no thread and no connection is ever forked.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

PRELOADED = [
    "pytest",
    *(
        f"batch_pipeline_tests.support.{name}"
        for name in ("crash_steps", "live_asker", "many_processes", "random_walk", "preload")
    ),
]
JOIN_SECONDS = 180.0
_ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Child:
    """A process of a test.

    Attributes:
        process: it.
        report: a file that holds the exception with which it ended, if it did.
    """

    process: Any
    report: Path

    def join(self) -> int:
        """Wait for its end; return its exit code, -9 when it was killed."""
        self.process.join(JOIN_SECONDS)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise AssertionError(f"{self.process.name} did not end in {JOIN_SECONDS} s")
        return code

    @property
    def is_alive(self) -> bool:
        """Whether it still works."""
        return self.process.is_alive()

    @property
    def error(self) -> str:
        """The traceback of the exception that ended it; "" when there is none."""
        return self.report.read_text() if self.report.exists() else ""


def start(reports: Path, work: Callable[..., None], *args: Any) -> Child:
    """Start a process.

    Args:
        reports: a folder for what it reports.
        work: what it does: a function of a module.
        *args: its arguments.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, {"PYTHONPATH": _ROOT}):
        forkserver.ensure_running()
    report = reports / f"child-{len(list(reports.glob('child-*')))}"
    report.touch()
    process = context.Process(target=_run, args=(str(report), work, args))
    process.start()
    return Child(process, report)


def together(reports: Path, work: Callable[..., None], *each: tuple[Any, ...]) -> None:
    """Let several processes do the same work at the same time, each with arguments of its own.

    Raises:
        AssertionError: one of them failed; its traceback is in the message.
    """
    running = [start(reports, work, *args) for args in each]
    codes = [child.join() for child in running]
    errors = [child.error for child in running if child.error]
    assert not errors, "\n".join(errors)
    assert codes == [0] * len(codes), codes


def _run(report: str, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    code = 0
    try:
        work(*args)
    except BaseException:
        Path(report).write_text(traceback.format_exc())
        code = 1
    # Without the end of the interpreter: nothing that was not done before is to be done by it.
    os._exit(code)
