"""Stage 1: one image becomes six views. The one door to diffusers, transformers and peft."""
