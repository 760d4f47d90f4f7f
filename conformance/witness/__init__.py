"""What listens to a trainer: the tiny model, the tap on it, replays, and where each position comes from."""
