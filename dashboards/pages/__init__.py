"""Pages that need nothing but themselves: they open from a disk, in a mail or in MLflow's frame."""
