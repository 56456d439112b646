"""The machine that a process finds itself on: its user, folders that can be written to, what a file may be read by."""
