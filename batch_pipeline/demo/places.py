"""Where the demo keeps what it makes: everything lies in `.demo` under the project root."""

import os
from dataclasses import dataclass

from batch_pipeline.errors import InputError
from batch_pipeline.settings import project_path

FOLDER = ".demo"
PORT_VARIABLE = "BATCH_PIPELINE_DEMO_PORT"
CRON_VARIABLE = "BATCH_PIPELINE_DEMO_CRON"
DEFAULT_PORT = 8799
DEFAULT_CRON = "0 23 * * *"


@dataclass(frozen=True)
class Places:
    """The demo's paths, relative to the project root.

    Attributes:
        live: whether the real API is asked. Its answers cost money: they have places of their own.
    """

    live: bool = False

    @property
    def folder(self) -> str:
        """Everything of this kind of demo."""
        return f"{FOLDER}/live" if self.live else FOLDER

    @property
    def store(self) -> str:
        """The store of the pipelines: files and ledger."""
        return f"{self.folder}/store"

    @property
    def warehouse(self) -> str:
        """The DuckDB database that holds invoices, their answers and the approvals."""
        return f"{self.folder}/warehouse.duckdb"

    @property
    def packages(self) -> str:
        """The folder of Parquet files that the packages come from."""
        return f"{self.folder}/packages"

    @property
    def sections(self) -> str:
        """The Parquet dataset that gets the packages' answers."""
        return f"{self.folder}/package_sections"

    @property
    def dagster_home(self) -> str:
        """Dagster's history."""
        return f"{self.folder}/dagster_home"

    @property
    def emulator(self) -> str:
        """The emulator's batches and bill."""
        return f"{self.folder}/emulator"

    @property
    def log(self) -> str:
        """What Dagster would print while the demo runs."""
        return f"{self.folder}/demo.log"

    def __getitem__(self, name: str) -> str:
        """Return a place as an absolute path."""
        return project_path(getattr(self, name))


def nightly_cron() -> str:
    """Return when the invoices are asked about, in UTC: at 23:00, unless the environment says else."""
    return os.environ.get(CRON_VARIABLE) or DEFAULT_CRON


def emulator_port() -> int:
    """Return the port of the demo's emulator.

    It is the same every time: answers belong to the address that gave them, so on another port
    the demo would ask everything anew.

    Raises:
        InputError: the environment variable is no port.
    """
    text = os.environ.get(PORT_VARIABLE, str(DEFAULT_PORT))
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise InputError(
            f"{PORT_VARIABLE} is {text!r}; it must be a port number, such as {DEFAULT_PORT}."
        )
    return int(text)
