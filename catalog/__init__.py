"""Finding sources, fetching them, and describing in STAC what was built."""
