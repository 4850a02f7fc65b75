"""Lets tests import the project's code."""
