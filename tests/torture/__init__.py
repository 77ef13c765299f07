"""What takes too long for the tests: `make torture`."""
