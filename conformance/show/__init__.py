"""What a file of conversations trains, token by token."""
