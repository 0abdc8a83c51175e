"""GOES ABI L1b files as NOAA writes them, with a computed sky."""
