"""Requests → paid batches, once each."""
