"""Whether cameras fit their images, and the figures that say so."""
