"""GOES ABI: the fixed grid, scans, references, eras, calibration, tiles."""
