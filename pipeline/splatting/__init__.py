"""Gaussians to pictures: one door, gsplat on CUDA and a rasterizer of our own on the CPU."""
