"""Two pipelines that show what the package does, on an emulated API or on the real one.

A project of your own looks like ``invoices.py`` and ``packages.py``: they use the public API alone.
The other modules play a night in front of your eyes.
"""
