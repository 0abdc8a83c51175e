"""Sentinel-2 L2A products to harmonised composites on one lattice."""
