"""Compare models and write the pages about them."""
