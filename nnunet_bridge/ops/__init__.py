"""Floor 2: pure functions from value to value."""
