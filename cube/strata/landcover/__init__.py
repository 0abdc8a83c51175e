"""The land-cover stratum: tiles of each class of a categorical raster, and the shares of all classes in them."""
