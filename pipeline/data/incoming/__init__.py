"""What others made, read as it is or refused: pictures, photos of one mouse, lists of scenes."""
