"""One side of a run: what it starts from, what it is fed, and all that it then computes."""
