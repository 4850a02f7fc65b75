"""Clients that others wrote, against the emulator: `make sdk-suites`, `make clients`. No pytest."""
