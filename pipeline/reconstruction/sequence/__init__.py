"""A video, a folder of frames or a recording's scenes: Gaussians for each frame, two videos, and what moved how."""
