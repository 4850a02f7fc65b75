"""Clients that others wrote complete a call against the emulator, and a batch where they have one.

    python -m batch_pipeline_tests.clients [NAME ...]

Each gets an environment of its own in `.clients/`, from the package index, with the newest version
that there is; its script in `calls/` says at the end what it has done. What came of it is written into
docs/emulator.md with versions and date: of those that are not named, the row stays.
"""

import json
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline_tests.clients.own_environment import (
    PLACE,
    ClientFailed,
    OwnEnvironment,
    run,
)
from batch_pipeline_tests.clients.page import PAGE, table_of, write_table

CALLS = Path(__file__).with_name("calls")
CALL_SECONDS = 300
HEAD = "| client | version | tried on | it completes | beside |\n|---|---|---|---|---|\n"


class Client(NamedTuple):
    """A client and how it is tried.

    Attributes:
        name: Of its package.
        script: In `calls/`.
        packages: What is installed.
        beside: What is to be known of it.
    """

    name: str
    script: str
    packages: tuple[str, ...]
    beside: str = ""

    @property
    def by_npm(self) -> bool:
        return self.script.endswith(".mjs")


CLIENTS = (
    Client(
        "litellm",
        "call_litellm.py",
        ("litellm",),
        "it makes no batches; it looks at one and fetches its results",
    ),
    Client("langchain-anthropic", "call_langchain.py", ("langchain-anthropic",), "it has no batches"),
    Client("pydantic-ai", "call_pydantic_ai.py", ("pydantic-ai-slim[anthropic]",)),
    Client(
        "instructor",
        "call_instructor.py",
        ("instructor[anthropic]",),
        "its JSON modes ask for JSON in the prompt alone, which the emulator does not follow",
    ),
    Client("inspect_ai", "call_inspect_ai.py", ("inspect-ai", "anthropic")),
    Client(
        "llm-anthropic",
        "call_llm.py",
        ("llm-anthropic",),
        "it has no batches, and takes another URL by the model's `base_url` alone",
    ),
    Client("ai (Vercel AI SDK)", "call_ai_sdk.mjs", ("ai", "@ai-sdk/anthropic"), "it has no batches"),
)  # fmt: skip


class NotInstalled(ClientFailed):
    """It could not be installed here."""


def installed(client: Client) -> tuple[str, list[str | Path], Path]:
    """Install a client; return its version, what runs its script, and where.

    Raises:
        NotInstalled: It could not be.
    """
    name = client.packages[0].split("[")[0]
    folder = PLACE / name
    try:
        if client.by_npm:
            if shutil.which("npm") is None or shutil.which("node") is None:
                raise ClientFailed("node and npm are not here")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"private": true, "type": "module"}')
            quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
            run(["npm", "install", *quiet, *client.packages], folder)
            shutil.copy(CALLS / client.script, folder)  # it imports what stands beside it
            described = folder / "node_modules" / name / "package.json"
            version = json.loads(described.read_text())["version"]
            return version, ["node", client.script], folder
        environment = OwnEnvironment(name)
        environment.install("--upgrade", *client.packages)
        script = [environment.python, CALLS / client.script, folder]
        return environment.version(name), script, folder
    except ClientFailed as error:
        raise NotInstalled(str(error)) from error


def tried(client: Client) -> tuple[str, str]:
    """Try a client; return its version, and in words what it completes.

    Raises:
        ClientFailed: It could not be installed, or did not complete what its script asks of it.
    """
    version, command, folder = installed(client)
    state = folder / "emulator"
    shutil.rmtree(state, ignore_errors=True)
    with EmulatorProcess(state) as emulator:
        told = {
            "ANTHROPIC_BASE_URL": emulator.base_url,
            "ANTHROPIC_API_KEY": "any",
            # What they would fetch or keep elsewhere on the way.
            "HOME": str(folder),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        }
        said = run(command, folder, told, CALL_SECONDS)
        calls = emulator.stats()["calls"]
    done = json.loads(said.splitlines()[-1])["done"]
    if not sum(calls.values()):
        raise ClientFailed("the emulator was not asked")
    return version, ", ".join(done)


def rows_of(table: str) -> dict[str, str]:
    """The rows of the table, by client."""
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    return {row.split("|")[1].strip(): row for row in rows}


def main(names: list[str]) -> int:
    """Try clients; return the exit code: 1 when one that is installed fails."""
    known = [client.name for client in CLIENTS]
    if unknown := [name for name in names if name not in known]:
        print(f"no client {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    rows, failed = rows_of(table_of(PAGE.read_text(), "clients")), False
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    for client in CLIENTS:
        if names and client.name not in names:
            continue
        began = time.monotonic()
        try:
            version, done = tried(client)
        except NotInstalled as error:
            version, done = "", "could not be installed"
            print(f"{client.name} could not be installed: {error}")
        except ClientFailed as error:
            version, done, failed = "", "FAILED", True
            print(f"FAILED: {client.name}: {error}")
        rows[client.name] = f"| {client.name} | {version} | {today} | {done} | {client.beside} |"
        print(f"{client.name} {version}: {done} ({time.monotonic() - began:.0f} s)", flush=True)
    there = [rows[name] for name in known if name in rows]
    write_table("clients", HEAD + "".join(f"{row}\n" for row in there))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
