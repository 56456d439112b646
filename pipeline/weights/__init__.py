"""Files of weights that a user must fetch: which they are, whether they are there, and the command that fetches one."""
