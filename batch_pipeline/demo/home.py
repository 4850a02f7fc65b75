"""The demo's own Dagster home, so that its nights can be looked at later in the UI."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false  # a page over the page that asks newcomers for their address
run_monitoring:
  enabled: true
  free_slots_after_run_end_seconds: 300
sensors:
  use_threads: true
  num_workers: 4
"""
QUIET = {"DAGSTER_DISABLE_TELEMETRY": "1"}


def prepare_home(folder: str) -> Path:
    """Make a Dagster home with its settings, unless it is there; return its path."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text(SETTINGS, encoding="utf-8")
    return home


@contextmanager
def instance_at(home: Path) -> Iterator[dg.DagsterInstance]:
    """Give the Dagster instance of a home; the environment is put back afterwards."""
    names = {**QUIET, "DAGSTER_HOME": str(home)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        with dg.DagsterInstance.get() as instance:
            yield instance
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
