"""Planted bugs of masking."""
