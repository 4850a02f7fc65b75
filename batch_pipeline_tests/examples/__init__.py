"""The examples load, and in the whole they are played."""
