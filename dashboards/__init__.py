"""The windows: they read what the memory keeps and change nothing."""
