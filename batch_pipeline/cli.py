"""The command line: `batch-pipeline emulator | demo | dev | status | preview | history | doctor | held | ...`."""

import io
import logging
import sys
from typing import Any

import click

from batch_pipeline.by_hand import cancel, held, rebuild_ledger, reconcile
from batch_pipeline.doctor import doctor
from batch_pipeline.history import history
from batch_pipeline.preview import preview
from batch_pipeline.show import RefusedError, speaking
from batch_pipeline.status import status

# Dagster takes seconds to import, so each command imports what it needs.


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batch-pipeline")
def main() -> None:
    """Bulk Claude work on Dagster, through Anthropic's Message Batches API."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where a letter cannot be shown, its number is
            stream.reconfigure(errors="backslashreplace")


def _read_faults(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> list[dict[str, Any]]:
    if not texts:
        return []
    from batch_pipeline.emulator.faults.notation import read_fault

    try:
        return [read_fault(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(f"{error}. --list-faults explains each.") from None


def _list_faults(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from batch_pipeline.emulator.faults.notation import show_kinds

        show_kinds()
        context.exit()


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
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_read_faults,
    metavar="[CALL:]KIND[:NAME=VALUE,...]",
    help="Let something go wrong, such as create:drop_after:nth=2; may be repeated.",
)
@click.option(
    "--list-faults",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_faults,
    help="Show all that can go wrong, and end.",
)
@click.option(
    "--to",
    "running",
    metavar="URL",
    help="Lay the faults on the emulator that runs there, and end.",
)
@speaking
def emulator(
    host: str,
    port: int,
    state_dir: str,
    rates: tuple[str, ...],
    faults: list[dict[str, Any]],
    running: str | None,
    **options: Any,
) -> None:
    """Serve a local Message Batches API until interrupted. It asks no model and costs nothing.

    It is for development and tests, listens on this machine only, and is no server for production.
    """
    from batch_pipeline.emulator import serve

    if running is not None:
        _lay_faults(running, faults)
        return
    given = {name: value for name, value in options.items() if value is not None}
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        serve(state_dir, host, port, faults, rates=dict(map(_rate, rates)), **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except KeyboardInterrupt:
        return


def _lay_faults(url: str, faults: list[dict[str, Any]]) -> None:
    from batch_pipeline.emulator import EmulatorError, RunningEmulator

    if not faults:
        raise click.UsageError("--to lays faults: say which, with --fault")
    try:
        there = RunningEmulator(url)
        for fault in faults:
            there.fault(**fault)
        lying = there.faults()
    except (EmulatorError, OSError, ValueError) as error:
        raise RefusedError(
            f"--to {url}: no emulator took the fault ({error}). Start one with "
            "`batch-pipeline emulator`."
        ) from error
    for fault in lying:
        left = "" if fault["times"] is None else f" of {fault['times']}"
        click.echo(f"{fault['kind']} on {fault['on']}: has hit {fault['hits']}{left} calls")


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
@speaking
def demo(live: bool, yes: bool, reset: bool) -> None:
    """Play a night of the two demo pipelines, and show what came out."""
    from batch_pipeline.demo.play import play

    try:
        play(live=live, yes=yes, reset=reset)
    except KeyboardInterrupt:
        raise RefusedError(
            "Interrupted. Nothing is lost: run the demo again and it goes on from here."
        ) from None


@main.command()
@click.option(
    "--port", default=3000, show_default=True, envvar="PORT", help="Port of Dagster's UI."
)
@click.option(
    "--batch-seconds", default=20.0, show_default=True, help="How long an emulated batch takes."
)
@speaking
def dev(port: int, batch_seconds: float) -> None:
    """Serve the demo in Dagster's UI, with the emulator beside it, until interrupted."""
    from batch_pipeline.demo.dev import serve_dev

    raise SystemExit(serve_dev(port, batch_seconds))


for command in (status, preview, history, doctor, held, reconcile, cancel, rebuild_ledger):
    main.add_command(command)


if __name__ == "__main__":
    main()
