"""Geostationary imagers: their fixed grids, dialects of files, references, eras, tiles."""
