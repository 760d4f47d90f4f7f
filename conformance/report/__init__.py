"""What was found, as a document, on the terminal and as a page."""
