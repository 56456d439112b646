"""Trained models at work on a user's own things: photos, videos and scenes to Gaussians, and the files of each."""
