"""Debian's packages, installed where that can be done."""

import os
import shutil
import subprocess
from collections.abc import Sequence


def can_install() -> bool:
    """Return whether packages can be installed from here."""
    return bool(shutil.which("apt-get")) and os.geteuid() == 0


def install(packages: Sequence[str]) -> str:
    """Install packages with apt-get; return why that failed, or "".

    Args:
        packages: their names.
    """
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return f"{' '.join(command)} failed: {(done.stderr or done.stdout)[-800:]}"
    return ""
