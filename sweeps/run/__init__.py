"""The trials at work: Ray, the driver, the scheduler, checkpoints, and how a sweep is taken up again."""
