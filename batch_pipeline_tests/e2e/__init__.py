"""The demo in a running Dagster: `make e2e`.

A `dagster dev` with its daemon and web UI, the emulated API, and a headless Chromium that looks at
the pages. It is a program and no pytest: `python -m batch_pipeline_tests.e2e`.
"""
