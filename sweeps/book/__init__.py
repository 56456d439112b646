"""What happened: the journal, the ledger that it adds up to, and what is derived from them for others to read."""
