"""`python -m batch_pipeline.cli` is `batch-pipeline`."""

from batch_pipeline.cli.main import main

main(prog_name="batch-pipeline")
