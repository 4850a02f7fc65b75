"""Nights that go wrong, simulated without sockets: all that happens follows from one seed.

    make simulate EPISODES=1000     plays so many, and says which failed
    make simulate SEED=42           plays one, and tells it step by step

The SDK is the real one, over a transport that calls the emulator in this process; the ledger is SQLite
and the store a folder, both in memory (``/dev/shm``); the clocks of both sides move only where the
simulation moves them. Two or three workers, each a thread, are handed over to strictly one at a time.
"""
