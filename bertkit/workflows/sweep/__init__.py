"""A sweep: many trainings of one task with different settings, and the best of them by validation score."""
