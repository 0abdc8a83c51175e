"""Readers of tracked cloud systems, one file a maker; :data:`cube.registry.MASKS` lists them."""
