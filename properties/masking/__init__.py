"""Masking: which positions are trained, and on which token."""
