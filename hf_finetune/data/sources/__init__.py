"""Where a dataset comes from: one file for each kind of source."""
