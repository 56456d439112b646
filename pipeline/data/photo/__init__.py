"""A photo that a user has: the animal is told from its background, and framed as a model's training set was."""
