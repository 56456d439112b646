"""What is refused before a machine is taken: files, data, stores, disk, memory, and two real steps."""
