"""Where files and the ledger live: the ground floor that every stage stands on."""
