"""Sentinel-2 L2A: finding products, and what their metadata says."""
