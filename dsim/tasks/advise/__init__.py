"""What to run on given GPUs under a given load."""
