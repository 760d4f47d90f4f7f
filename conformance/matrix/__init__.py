"""Many trainers in many settings on trial, and what came of it as files and as a page."""
