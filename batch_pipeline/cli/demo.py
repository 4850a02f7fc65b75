"""The command `batch-pipeline demo`: a night of the two demo pipelines."""

import click

from batch_pipeline.cli.output import RefusedError, errors_shown


@click.command()
@click.option(
    "--live",
    is_flag=True,
    help="Ask the real API a few records, for money; needs ANTHROPIC_API_KEY.",
)
@click.option("--yes", is_flag=True, help="With --live: spend the money without asking.")
@click.option("--reset", is_flag=True, help="Forget earlier emulated nights first.")
@errors_shown
def demo(live: bool, yes: bool, reset: bool) -> None:
    """Play a night of the two demo pipelines, and show what came out."""
    from batch_pipeline.demo.play import play

    try:
        play(live=live, yes=yes, reset=reset)
    except KeyboardInterrupt:
        raise RefusedError(
            "Interrupted. Nothing is lost: run the demo again and it goes on from here."
        ) from None
