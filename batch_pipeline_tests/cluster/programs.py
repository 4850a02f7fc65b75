"""The programs that a cluster needs: Debian's, and an environment with what PyPI has."""

import shutil
import subprocess
import sys
from pathlib import Path

from batch_pipeline_tests.e2e.dagster_dev import E2EFailed
from batch_pipeline_tests.support.debian import can_install, install

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cluster"
PYTHON = PLACE / "venv" / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
DEBIAN = {"redis-server": "redis-server", "postgresql": "initdb", "libfaketime": FAKETIME}
"""What apt-get installs, and what it is known by."""


def found(name: str) -> str | None:
    """Return where one of Debian's programs lies; None when it is not there."""
    if name.startswith("/"):
        return next((str(one) for one in Path("/").glob(name[1:])), None)
    newest = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda one: float(one.parts[4])
    )
    return str(newest[-1]) if newest else shutil.which(name)


def ensure_programs() -> str | None:
    """Install what is missing with apt-get, where that can be done; return what was installed.

    Raises:
        E2EFailed: something is missing, and cannot be installed from here.
    """
    missing = [package for package, known in DEBIAN.items() if not found(known)]
    if not missing:
        return None
    if not can_install():
        raise E2EFailed(f"These are needed. As root: apt-get install {' '.join(missing)}")
    if why := install(missing):
        raise E2EFailed(why)
    return f"apt-get installed {', '.join(missing)}"


def ensure_environment() -> str | None:
    """Make .cluster/venv: this environment, and what REQUIREMENTS names beside it; return what was done.

    Raises:
        E2EFailed: the package index does not have them.
    """
    done = PLACE / "venv" / "installed"
    wanted = REQUIREMENTS.read_text() + sys.prefix
    if done.exists() and done.read_text() == wanted:
        return None
    shutil.rmtree(PLACE / "venv", ignore_errors=True)
    PLACE.mkdir(exist_ok=True)
    _run([sys.executable, "-m", "venv", str(PLACE / "venv")])
    # What this environment has is seen there, too, and not installed a second time.
    here = next(path for path in sys.path if path.endswith("site-packages"))
    there = next((PLACE / "venv").glob("lib/python*/site-packages"))
    (there / "beside.pth").write_text(f"{here}\n")
    _run(
        [
            str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
            "-c", str(ROOT / "constraints.txt"), "-r", str(REQUIREMENTS),
        ]
    )  # fmt: skip
    done.write_text(wanted)
    return f"{PLACE / 'venv'} was made, with {REQUIREMENTS.name}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PLACE)
    if done.returncode:
        raise E2EFailed(f"{' '.join(command)} failed: {(done.stderr or done.stdout)[-1500:]}")
