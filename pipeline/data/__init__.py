"""Scenes and datasets: made, written, read, loaded."""
