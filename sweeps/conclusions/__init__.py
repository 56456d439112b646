"""What can be said of a sweep: what mattered in it, and what the runs of a plan tell."""
