"""The four assets of a pipeline: their definitions, and what each does in a run."""
