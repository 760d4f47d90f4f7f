"""Chat templates: what a conversation looks like as text and tokens."""
