"""Releases as trainers, one file for each way to reach what they do; run by its path, in the release's interpreter."""
