"""Planted bugs of distillation."""
