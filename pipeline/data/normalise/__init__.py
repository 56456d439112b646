"""Ways into FaceLift's frame, and the resampling that they share."""
