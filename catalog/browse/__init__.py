"""A small local page over catalogs: where their items lie, when, of which stratum and split, and what each holds."""
