"""Best-of-N: which candidate is chosen, what that is worth, and what is trained on."""
