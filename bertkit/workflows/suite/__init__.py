"""A suite: a training for each task of a group and each seed, below one folder, and one table of all of them."""
