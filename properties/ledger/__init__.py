"""What properties read of a trainer: the run, and its own float64 computation."""
