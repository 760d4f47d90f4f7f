"""Planted bugs of the step."""
