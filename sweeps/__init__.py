"""The memory: runs recipes many times, chooses the next one, writes down what happened, keeps the champions."""
