"""Public data sets, one file per layout; they know files, no networks."""
