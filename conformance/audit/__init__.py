"""What files of conversations train: everything that is wrong with them, with counts, shares and places."""
