"""What can be said of sweeps: what mattered in one, what the runs of a plan tell, in what two trials differ."""
