"""Finding files of geostationary imagers: names, archives, scans, their STAC items, and fetching."""
