"""Ten tasks for coding agents, each judged by a night on the emulator; and the judges judged."""
