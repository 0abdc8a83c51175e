"""Sentinel-2 L2A products as ESA writes them, with a computed landscape."""
