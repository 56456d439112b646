"""Calibrations as laboratories have them: a file per format, one `read_calibration` for all, and lenses."""
