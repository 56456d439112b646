"""The version of this software. Imports no library."""

VERSION = "0.1.0"  # pyproject.toml reads it here: code that is on the path alone has no metadata to ask
