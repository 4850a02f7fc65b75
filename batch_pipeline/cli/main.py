"""The group `batch-pipeline`, and the commands in it: each stands in the module of its name."""

import io
import sys

import click

from batch_pipeline.cli.adopt import adopt
from batch_pipeline.cli.advise import advise
from batch_pipeline.cli.cancel import cancel
from batch_pipeline.cli.collect import collect
from batch_pipeline.cli.costs import costs
from batch_pipeline.cli.demo import demo
from batch_pipeline.cli.dev import dev
from batch_pipeline.cli.doctor import doctor
from batch_pipeline.cli.emulator import emulator
from batch_pipeline.cli.erase import erase
from batch_pipeline.cli.estimate import estimate
from batch_pipeline.cli.export import export
from batch_pipeline.cli.held import held
from batch_pipeline.cli.history import history
from batch_pipeline.cli.init import init
from batch_pipeline.cli.labels import labels
from batch_pipeline.cli.preview import preview
from batch_pipeline.cli.prune import prune
from batch_pipeline.cli.publish import publish
from batch_pipeline.cli.rebuild_ledger import rebuild_ledger
from batch_pipeline.cli.reconcile import reconcile
from batch_pipeline.cli.sample import sample
from batch_pipeline.cli.skill import skill
from batch_pipeline.cli.status import status

# Dagster, DuckDB and SQLAlchemy take seconds to import, so each command imports what it needs.


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batch-pipeline")
def main() -> None:
    """Bulk Claude work on Dagster, through Anthropic's Message Batches API."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where a letter cannot be shown, its number is
            stream.reconfigure(errors="backslashreplace")


for command in (
    adopt, advise, cancel, collect, costs, demo, dev, doctor, emulator, erase, estimate, export, held, history, init, labels, preview,
    prune, publish, rebuild_ledger, reconcile, sample, skill, status,
):  # fmt: skip
    main.add_command(command)
