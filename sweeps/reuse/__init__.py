"""What the other sweeps of a home have: results that are taken instead of trained, and what a sampler learns."""
