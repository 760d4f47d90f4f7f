"""Planted bugs of best-of-N."""
