"""Writers of synthetic archives in the formats of the real ones: for the demo, tests and benchmarks."""
