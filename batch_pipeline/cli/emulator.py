"""The command `batch-pipeline emulator`: serve the emulated API, or lay faults on one that runs."""

import logging
from typing import Any

import click

from batch_pipeline.cli.output import RefusedError, errors_shown


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


@click.command()
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
    "--any-model", is_flag=True, help="Take any name of a model, as behind a relay that maps names."
)
@click.option(
    "--downloadable-files", is_flag=True, help="Give out uploaded files, which the API does not."
)
@click.option(
    "--public-url", metavar="URL", help="Where clients reach it: a relay's URL, with its path."
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
@errors_shown
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
