"""Measurements behind the figures in the docs; each script says what it measures and writes results/NAME.json."""
