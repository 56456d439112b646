"""Stage 2: posed images to 3D Gaussians."""
