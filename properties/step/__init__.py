"""The step: what the optimizer is given, and what it does with it."""
