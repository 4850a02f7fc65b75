"""Whether it works with what its pyproject.toml lets a user have, in environments of their own.

    python -m batch_pipeline_tests.environments lowest     # the oldest release of each dependency
    python -m batch_pipeline_tests.environments versions   # each Python, with the newest releases

Both install from the package index into `.environments`, by uv, and run the tests that meet each of the
dependencies. A Python that is not on this machine is only looked at from outside: whether there are wheels
for all that is needed, and whether the code's types hold in it. Programs, no pytest: `make lowest`, `make versions`.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".environments"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")  # as far as Dagster installs
EXTRAS = ("webserver", "postgres", "s3", "notify", "chart", "scores")  # those of a user
TOOLS = ("pytest", "hypothesis", "psutil", "aiosmtpd", "sybil", "markdown-it-py")
TESTS = (
    "test_import_time.py",
    "test_public_types.py",
    "requests",
    "records",
    "store/test_files.py",
    "store/test_ledger.py",
    "results/test_destinations.py",
    "results/test_judge.py",
    "results/test_scores.py",
    "definitions/test_build.py",
    "definitions/test_component.py",
    "definitions/test_component_resources.py",
    "definitions/test_load.py",
    "definitions/test_nights.py",
    "definitions/test_reports.py",
    "cli/test_status.py",
    "emulator/test_clients.py",
)
"""A night, and at least one test of whatever each dependency does."""


class Environment:
    """A virtual environment in `.environments`, made anew.

    Args:
        name: names its folder.
        python: its interpreter.
    """

    def __init__(self, name: str, python: str) -> None:
        self._folder = PLACE / name
        self._uv = find_uv()
        shutil.rmtree(self._folder, ignore_errors=True)
        run(self._uv, "venv", "--quiet", "--python", python, self._folder)
        self.python = self._folder / "bin" / "python"

    def install(self, *words: str | Path, may_fail: bool = False) -> bool:
        """Install packages, as `uv pip install` takes them; return whether it could."""
        of_it = ("pip", "install", "--quiet", "--python", self.python)
        return run(self._uv, *of_it, *words, may_fail=may_fail)

    def installed(self) -> dict[str, str]:
        """Return the version of each package in it."""
        code = (
            "import importlib.metadata as m\n"
            "for one in m.distributions(): print(one.metadata['Name'], one.version)"
        )
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return {plain(name): version for name, version in map(str.split, done.stdout.splitlines())}

    def test(self, extent: Sequence[str]) -> bool:
        """Run tests in it, by their places below `batch_pipeline_tests`; return whether all pass."""
        places = [ROOT / "batch_pipeline_tests" / place for place in extent]
        return run(
            self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *places,
            may_fail=True,
        )  # fmt: skip


def find_uv() -> str:
    """Return uv's place: that of this environment, or of the machine."""
    own = Path(sys.executable).with_name("uv")
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise SystemExit("uv is needed: pip install -e '.[release]' brings it.")
    return found


def run(*words: str | Path, may_fail: bool = False) -> bool:
    """Run a command in the root, without what the shell says of Python; return whether it succeeded."""
    foreign = ("PYTHON", "VIRTUAL_ENV", "ANTHROPIC_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run([str(word) for word in words], cwd=ROOT, env=own)
    if done.returncode and not may_fail:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}")
    return not done.returncode


def plain(name: str) -> str:
    """Return a package's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """Return the names of what a user may install with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in optional[extra])]
    return {plain(re.split(r"[\[<>=!~ ]", line, maxsplit=1)[0]) for line in lines}


def lowest() -> int:
    """Install the oldest releases that pyproject.toml allows, and run the tests; return the exit code."""
    environment = Environment("lowest", sys.executable)
    package = f".[{','.join(EXTRAS)}]"
    environment.install("--resolution", "lowest-direct", "--editable", package)
    oldest = {
        name: version for name, version in environment.installed().items() if name in declared()
    }
    print("The oldest that may be had:", *(f"{name} {oldest[name]}" for name in sorted(oldest)))
    kept = PLACE / "lowest.txt"
    kept.write_text("".join(f"{name}=={version}\n" for name, version in oldest.items()))
    environment.install("--constraints", kept, *TOOLS)
    for one in (f"dagster-dg-cli=={oldest['dagster']}", "pgserver"):  # where they can be
        environment.install("--constraints", kept, one, may_fail=True)
    return 0 if environment.test(TESTS) else 1


def versions() -> int:
    """Look at each Python; return the exit code."""
    failed: list[str] = []
    PLACE.mkdir(exist_ok=True)
    for version in PYTHONS:
        began = time.monotonic()
        interpreter = shutil.which(f"python{version}")
        if interpreter is None:
            how = "no interpreter here; wheels and types only"
            good = wheels(version) and types(version)
        else:
            how = "tests"
            environment = Environment(version, interpreter)
            package = f".[{','.join(EXTRAS)}]"
            environment.install(
                "--only-binary", ":all:", "--no-binary", "batch-pipeline", "-e", package, *TOOLS
            )
            for one in ("dagster-dg-cli", "pgserver"):
                environment.install(one, may_fail=True)
            good = environment.test(TESTS)
        failed += [] if good else [version]
        said = "good" if good else "FAILED"
        print(f"Python {version}: {said} ({how}), {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


def wheels(version: str) -> bool:
    """Return whether all that it needs can be installed in a Python without a compiler."""
    of_it = [word for extra in EXTRAS for word in ("--extra", extra)]
    return run(
        find_uv(), "pip", "compile", "pyproject.toml", *of_it, "--python-version", version, "--only-binary", ":all:",
        "--quiet", "--no-annotate", "--output-file", PLACE / f"{version}.txt",
        may_fail=True,
    )  # fmt: skip


def types(version: str) -> bool:
    """Return whether the package's types hold in a Python."""
    pyright = Path(sys.executable).with_name("pyright")
    of_it = ("--pythonpath", sys.executable, "--pythonversion", version)
    return run(pyright, *of_it, "batch_pipeline", may_fail=True)


if __name__ == "__main__":
    actions = {"lowest": lowest, "versions": versions}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        raise SystemExit(f"Say one of {', '.join(actions)}.")
    sys.exit(actions[sys.argv[1]]())
