"""Procedural mice: their bodies, how they are drawn, and datasets of them."""
