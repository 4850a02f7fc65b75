"""The command `batch-pipeline dev`: the demo in Dagster's UI."""

import click

from batch_pipeline.cli.output import errors_shown


@click.command()
@click.option(
    "--port", default=3000, show_default=True, envvar="PORT", help="Port of Dagster's UI."
)
@click.option(
    "--batch-seconds", default=20.0, show_default=True, help="How long an emulated batch takes."
)
@errors_shown
def dev(port: int, batch_seconds: float) -> None:
    """Serve the demo in Dagster's UI, with the emulator beside it, until interrupted."""
    from batch_pipeline.demo.dev import serve_dev

    raise SystemExit(serve_dev(port, batch_seconds))
