"""Pinned environments of trainers: one lock file says all of one, and the judge never imports what is in it."""
