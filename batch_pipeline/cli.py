"""The command line: `batch-pipeline emulator | demo | dev | held`."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from batch_pipeline.errors import BatchPipelineError, InputError

# Dagster takes seconds to import, so each command imports what it needs.


class _RefusedError(click.ClickException):
    """An error of ours, shown as what it says."""

    def format_message(self) -> str:
        return f"{self.message}"


def _speaking(command: Callable[..., None]) -> Callable[..., None]:
    """Show errors of ours without a traceback."""

    @functools.wraps(command)
    def speak(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BatchPipelineError as error:
            raise _RefusedError(str(error)) from error

    return speak


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batch-pipeline")
def main() -> None:
    """Bulk Claude work on Dagster, through Anthropic's Message Batches API."""


@main.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address of this machine to listen on."
)
@click.option("--port", default=8787, show_default=True, help="Port to listen on.")
@click.option(
    "--state-dir", default=".emulator", show_default=True, help="Where its batches are kept."
)
@click.option(
    "--answers", type=click.Choice(["fitting", "digest"]), default="fitting", show_default=True,
    help="Fill the schema that is asked for, or answer with the prompt's SHA-256.",
)  # fmt: skip
@click.option("--batch-seconds", default=0.0, show_default=True, help="How long a batch takes.")
@click.option("--manual", is_flag=True, help="Batches end only when told to.")
@click.option(
    "--rate",
    "rates",
    multiple=True,
    metavar="NAME=SHARE",
    help="Such as errored=0.03; may be repeated.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Changes every draw, and the order of the results."
)
@click.option("--queue-limit", type=int, help="Requests that may wait at once.")
@click.option(
    "--requests-per-minute", type=int, help="Calls per minute above which a call is a 429."
)
@_speaking
def emulator(host: str, port: int, state_dir: str, rates: tuple[str, ...], **options: Any) -> None:
    """Serve a local Message Batches API until interrupted. It asks no model and costs nothing."""
    from batch_pipeline.emulator import serve

    given = {name: value for name, value in options.items() if value is not None}
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        serve(state_dir, host, port, rates=dict(map(_rate, rates)), **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except KeyboardInterrupt:
        return


def _rate(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise click.UsageError(f"--rate {text}: write NAME=SHARE, such as errored=0.03") from None


@main.command()
@click.option(
    "--live",
    is_flag=True,
    help="Ask the real API a few records, for money; needs ANTHROPIC_API_KEY.",
)
@click.option("--yes", is_flag=True, help="With --live: spend the money without asking.")
@click.option("--reset", is_flag=True, help="Forget earlier emulated nights first.")
@_speaking
def demo(live: bool, yes: bool, reset: bool) -> None:
    """Play a night of the two demo pipelines, and show what came out."""
    from batch_pipeline.demo.play import play

    try:
        play(live=live, yes=yes, reset=reset)
    except KeyboardInterrupt:
        raise _RefusedError(
            "Interrupted. Nothing is lost: run the demo again and it goes on from here."
        ) from None


@main.command()
@click.option(
    "--port", default=3000, show_default=True, envvar="PORT", help="Port of Dagster's UI."
)
@click.option(
    "--batch-seconds", default=20.0, show_default=True, help="How long an emulated batch takes."
)
@_speaking
def dev(port: int, batch_seconds: float) -> None:
    """Serve the demo in Dagster's UI, with the emulator beside it, until interrupted."""
    from batch_pipeline.demo.dev import serve_dev

    raise SystemExit(serve_dev(port, batch_seconds))


@main.command()
@click.argument("pipeline", required=False)
@click.option(
    "--store",
    "root",
    required=True,
    metavar="ROOT",
    help="The root of the store: a folder or a URL.",
)
@click.option(
    "--ledger", metavar="URL", help="The ledger's URL; SQLite inside a local root when not given."
)
@click.option(
    "--resend", "resent", multiple=True, metavar="FILE", help="Send this held file again."
)
@click.option(
    "--drop",
    "dropped",
    multiple=True,
    metavar="FILE",
    help="Give it up; its records are asked anew.",
)
@click.option("--release", "released", is_flag=True, help="Let the held PIPELINE send again.")
@_speaking
def held(
    pipeline: str | None,
    root: str,
    ledger: str | None,
    resent: tuple[str, ...],
    dropped: tuple[str, ...],
    released: bool,
) -> None:
    """List what waits for a person to decide, of all pipelines or of PIPELINE; or decide it."""
    from batch_pipeline.batches.held import drop, list_held, release, resend
    from batch_pipeline.settings import project_path
    from batch_pipeline.store.store import open_store

    where = project_path(root)
    if "://" not in where and not Path(where).is_dir():
        raise InputError(
            f"There is no store at {where}. --store is the root that BatchStore(root=...) names."
        )
    store = open_store(where, ledger)
    if released and pipeline is None:
        raise InputError("--release needs the name of the pipeline.")
    for file in resent:
        resend(store, file)
        click.echo(f"{file} is ready; its status sensor has it sent.")
    for file in dropped:
        drop(store, file)
        click.echo(
            f"{file} is given up; its records are asked anew, as far as max_attempts allows."
        )
    if released and pipeline is not None:
        release(store, pipeline)
        click.echo(f"{pipeline} sends again.")
    if not (resent or dropped or released):
        _show_held(list_held(store, pipeline))


def _show_held(found: Any) -> None:
    if not (found.files or found.pipelines):
        click.echo("Nothing is held.")
        return
    for one in found.pipelines:
        click.echo(
            f"pipeline {one.pipeline} at {one.base_url}, held since {one.since:%Y-%m-%d %H:%M} UTC"
        )
        click.echo(f"    {one.error}")
        click.echo(
            f"    Put it right, then: --release {one.pipeline} (or run {one.pipeline}_send)."
        )
    for one in found.files:
        since = f"{one.since:%Y-%m-%d %H:%M} UTC" if one.since else "a time unknown"
        partition = f", partition {one.partition}" if one.partition else ""
        click.echo(
            f"file {one.id} of {one.pipeline}{partition}: {one.requests:,} requests, "
            f"held since {since}"
        )
        click.echo(f"    {one.error}")
        click.echo(f"    Decide: --resend {one.id}, or --drop {one.id}")


if __name__ == "__main__":
    main()
