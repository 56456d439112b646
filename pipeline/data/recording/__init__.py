"""Raw six-camera recordings: calibration, videos and masks become scenes."""
