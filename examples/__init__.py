"""Small projects, one folder each, that run on the emulator: ``python -m examples NAME``."""
