"""The suite proves itself: planted bugs, the kill matrix, and what a failure looks like."""
