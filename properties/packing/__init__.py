"""Packing: several examples share a row, and none of them can tell."""
