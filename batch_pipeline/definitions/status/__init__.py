"""The status sensor: what it is, what a tick does, and what a tick tells Dagster."""
