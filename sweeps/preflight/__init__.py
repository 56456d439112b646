"""What is checked before a sweep starts: files, data, stores, disk, memory, and two real steps."""
