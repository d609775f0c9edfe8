"""Floor 1: the values that travel through the program. NumPy is all they need."""
