"""Environments of their own for programs that are not ours, installed from the package index."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".clients"
INSTALL_SECONDS = 900
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


class ClientFailed(Exception):
    """A command did not do what it should; the text says which, and what it printed."""


def run(
    words: Sequence[str | Path],
    folder: Path,
    more: Mapping[str, str] | None = None,
    seconds: float = INSTALL_SECONDS,
    may_fail: bool = False,
) -> str:
    """Run a command as somebody would who has nothing of ours; return what it printed.

    Args:
        words: The command.
        folder: Where it is run.
        more: Variables beside those of the machine.
        seconds: How long it may take.
        may_fail: Whether any exit code is good.

    Raises:
        ClientFailed: It ended with an error, or took too long.
    """
    foreign = ("PYTHON", "ANTHROPIC_", "TEST_API_", "VIRTUAL_ENV")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = " ".join(map(str, words))
    try:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=folder,
            env={**own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClientFailed(f"{command}: {error}") from error
    if done.returncode and not may_fail:
        raise ClientFailed(f"{command} ended with {done.returncode}:\n{done.stdout[-3_000:]}")
    return done.stdout


class OwnEnvironment:
    """A virtual environment that has one client and what it needs.

    Args:
        name: Its name, which is also that of its folder.
    """

    def __init__(self, name: str) -> None:
        self.folder = PLACE / name
        self.python = self.folder / "venv" / "bin" / "python"

    def install(self, *words: str | Path) -> None:
        """Install packages, as pip takes them; what is there already stays.

        Raises:
            ClientFailed: The package index does not have them, or they do not build here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.python.exists():
            run([sys.executable, "-m", "venv", self.folder / "venv"], self.folder)
        run([self.python, *PIP, "install", *words], self.folder)

    def version(self, package: str) -> str:
        """The version of a package that is installed in it."""
        code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
        return run([self.python, "-c", code, package], self.folder).strip()
