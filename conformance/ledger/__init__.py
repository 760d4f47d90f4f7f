"""Runs as folders: written where the trainer runs, read anywhere."""
