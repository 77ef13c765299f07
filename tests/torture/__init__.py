"""What takes too long for the tests, and runs by `make torture`: trainings that are killed, over and over."""
