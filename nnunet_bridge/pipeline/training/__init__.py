"""Plan, preprocess and train."""
