"""Arguments for the properties, and expected values by hand: strategies and independent computations."""
