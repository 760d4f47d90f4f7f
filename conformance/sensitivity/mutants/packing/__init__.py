"""Planted bugs of packing."""
