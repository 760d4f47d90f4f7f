"""Planted bugs of chat templates."""
