"""The one training loop of both stages, alone or among several processes."""
