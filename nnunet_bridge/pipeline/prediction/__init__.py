"""Predict new images with a trained model."""
