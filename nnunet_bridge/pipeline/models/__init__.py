"""Trained models: choose, select, tune, pack."""
