"""Blocks of shell commands: each line is run in the project, or as much of it as can be run."""

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from dagster._cli.dev import dev_command
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sybil import Example

from batch_pipeline.cli.main import main
from batch_pipeline.emulator.faults.notation import read_fault
from batch_pipeline.emulator.process import _free_port
from batch_pipeline.emulator.steering import RunningEmulator
from batch_pipeline_tests.docs.pages import ROOT
from batch_pipeline_tests.docs.project import Project

BIN = Path(sys.executable).parent
COMMAND = "batch-pipeline"
LEDGER = "postgresql://user@host/database"  # of the pages; the project's is SQLite
SECONDS = 60
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*")
SHELL_SYNTAX = re.compile(r"[|;&<>$`*?]")
OF_A_STORE = {*main.commands} - {"demo", "dev", "emulator"}
LISTS = ("held", "reconcile", "status")  # their exit code says whether something is held


class ShellBlocks:
    """Runs the lines of a block, one after the other; a server runs until the block's end."""

    def __init__(self, project: Project):
        """Take where they are run."""
        self._project = project
        self._runners: dict[str, Callable[[str, list[str]], None]] = {
            COMMAND: self._run_command,
            "curl": self._run_curl,
            "dagster": self._run_dagster,
            "make": self._check_make,
            "pip": self._check_pip,
            "pytest": self._check_pytest,
            "python": self._check_module,
            "run": self._check_script,
        }

    def __call__(self, example: Example) -> None:
        """Run one."""
        with ExitStack() as servers:
            for line in commands(str(example.parsed)):
                words = without_variables(shlex.split(line, comments=True))
                if is_server(words):
                    servers.enter_context(self._serving(line, words))
                    continue
                self.run_line(line, words)

    def run_line(self, line: str, words: list[str]) -> None:
        """Run a command that is no server; what others brought as far as that it is there."""
        name = Path(words[0]).name
        runner = self._runners.get(re.sub(r"^python3(\.\d+)?$", "python", name))
        assert runner, f"Nobody knows how to run: {line}"
        runner(line, words)

    # Commands of ours

    def _run_command(self, line: str, words: list[str]) -> None:
        """Run a command as it stands; demo and dev as far as their flags."""
        line = self._arranged(line, words[1:])
        if words[1] in ("demo", "dev"):
            line += " --help"
        arguments = without_variables(shlex.split(line, comments=True))[1:]
        decides = {"--resend", "--drop", "--release"} & {*arguments}
        lists = arguments[0] in LISTS and not decides
        expected = 3 if lists and self._project.is_held else 0
        if SHELL_SYNTAX.search(line) or arguments[0] == "emulator":
            code, said = self._in_bash(line.replace(words[0], COMMAND, 1))
        else:
            # In this process: in one of its own it would import Dagster, for seconds, each time.
            result = CliRunner().invoke(main, arguments)
            code, said = result.exit_code, result.output
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
        assert code == expected, f"{line}: exit code {code}, not {expected}\n{said}"

    def _arranged(self, line: str, words: list[str]) -> str:
        """Return a line with real names, after the project was brought to stand as it says."""
        project = self._project
        project.play_a_night_if(words[0] in OF_A_STORE)
        if "FILE" in words:
            line = re.sub(r"\bFILE\b", project.hold_a_request_file(), line)
        elif words == ["held"]:
            project.hold_a_request_file()
        elif "--release" in words:
            project.hold_the_pipeline()
        elif words[0] == "cancel":
            project.send_a_batch()
        elif words[0] == "sample":
            project.compare()
        elif words[0] == "labels":
            project.label(words[2])
        elif words[0] == "doctor":
            project.run_the_daemon()
        elif words[0] == "rebuild-ledger":
            project.lose_the_ledger()
        ledger = f"sqlite:///{project.folder}/data/batches/ledger.sqlite"
        return project.real(line.replace(LEDGER, ledger))

    @contextmanager
    def _serving(self, line: str, words: list[str]) -> Iterator[None]:
        """Start a server as it stands, wait until it answers, and interrupt it in the end."""
        assert words[1] == "emulator", f"Nobody knows how to tell that it serves: {line}"
        port = _free_port()
        line = self._project.real(line, port).replace(words[0], COMMAND, 1)
        if "--port" not in words:
            line += f" --port {port}"
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self._project.folder, env=self._variables,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + SECONDS
            while not answers(port):
                over = process.poll() is not None or time.monotonic() > deadline
                assert not over, f"{line}: no answer\n{process.stdout and process.stdout.read()}"
                time.sleep(0.05)
            laid = RunningEmulator(f"http://127.0.0.1:{port}").faults()
            asked = [read_fault(text)["kind"] for text in after(words, "--fault")]
            assert [fault["kind"] for fault in laid] == asked, f"{line}: laid {laid}"
            yield
        finally:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, f"{line}: exit code {process.returncode}\n{said}"

    # Commands of others

    def _run_curl(self, line: str, words: list[str]) -> None:
        if shutil.which("curl") is None and "CI" not in os.environ:
            pytest.skip("There is no curl here.")
        code, said = self._in_bash(self._project.real(line).replace("curl", "curl -sSf", 1))
        assert code == 0, f"{line}: exit code {code}\n{said}"

    def _run_dagster(self, line: str, words: list[str]) -> None:
        """Launch a job; start no server, but look whether its flags are there."""
        if words[1] == "dev":
            known = {flag for option in dev_command.params for flag in option.opts}
            assert {word for word in words[2:] if word.startswith("-")} <= known, line
            return
        assert words[1:4] == ["job", "execute", "-f"] and words[5] == "-j", f"Nobody knows: {line}"
        self._project.launch(words[4], words[6])

    def _check_make(self, line: str, words: list[str]) -> None:
        """Check that there is such a target; what it does has tests of its own."""
        words = [words[0], "-n", *words[1:]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, f"{line}: {done.stderr}"

    def _check_pip(self, line: str, words: list[str]) -> None:
        """Check that the packages and extras are ours, or that we say we use them."""
        assert words[1] == "install", f"Nobody knows how to run: {line}"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        texts = [*project["dependencies"], *(text for some in extras.values() for text in some)]
        known = {canonicalize_name(Requirement(text).name) for text in texts}
        for word in words[2:]:
            if word.startswith("-"):
                continue
            asked = Requirement(re.sub(r"^\.", project["name"], word))
            if asked.name == project["name"]:
                assert asked.extras <= set(extras), f"{line}: there are {', '.join(extras)}"
            else:
                assert canonicalize_name(asked.name) in known, f"{line}: {asked.name}?"

    def _check_pytest(self, line: str, words: list[str]) -> None:
        """Check that the files and tests are there."""
        for word in words[1:]:
            if "/" in word or word.endswith(".py"):
                path, *names = word.split("::")
                assert (ROOT / path).exists(), f"{line}: there is no {path}"
                for name in names:
                    assert name.split("[")[0] in (ROOT / path).read_text(), f"{line}: no {name}"

    def _check_module(self, line: str, words: list[str]) -> None:
        """Run a file that a page has; of a module check that it is there."""
        if (self._project.folder / words[1]).is_file():
            runpy.run_path(str(self._project.folder / words[1]))
            return
        assert words[1] == "-m", f"Nobody knows how to run: {line}"
        if words[2] == "pytest":
            self._check_pytest(line, words[2:])
        assert importlib.util.find_spec(words[2]), f"{line}: there is no {words[2]}"

    def _check_script(self, line: str, words: list[str]) -> None:
        """Check a script of the repository."""
        assert os.access(ROOT / words[0], os.X_OK), f"{line}: there is no such script"
        subprocess.run(["bash", "-n", str(ROOT / words[0])], check=True)

    def _in_bash(self, line: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self._project.folder, env=self._variables, timeout=SECONDS,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    @property
    def _variables(self) -> dict[str, str]:
        return self._project.environment | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def commands(block: str) -> Iterator[str]:
    """Yield the commands of a block, each in one line."""
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield line.strip()


def without_variables(words: list[str]) -> list[str]:
    """Return a command without the variables that are set for it."""
    while words and WORD.fullmatch(words[0]):
        words = words[1:]
    return words


def is_server(words: list[str]) -> bool:
    """Return whether a command of ours goes on until it is interrupted."""
    is_ours = Path(words[0]).name == COMMAND and words[1] == "emulator"
    return is_ours and not {"--to", "--list-faults", "--help"} & {*words}


def after(words: list[str], flag: str) -> Iterator[str]:
    """Yield what is given with a flag."""
    for here, following in pairwise(words):
        if here == flag:
            yield following


def answers(port: int) -> bool:
    """Return whether an emulator answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_emulator/health", timeout=2):
            return True
    except OSError:
        return False
