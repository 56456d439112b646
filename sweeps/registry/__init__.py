"""The champions: versions of registered models, how they are verified and judged, and the files that serve them."""
