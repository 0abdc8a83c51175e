"""The weather about tiles, by NASA's reanalysis MERRA-2."""
