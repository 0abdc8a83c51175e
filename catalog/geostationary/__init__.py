"""Finding GOES ABI L1b files: names, archives, scans, their STAC items, and fetching."""
