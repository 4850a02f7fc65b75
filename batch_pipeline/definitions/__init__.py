"""Dagster's face of a pipeline. The stages themselves never import Dagster."""
