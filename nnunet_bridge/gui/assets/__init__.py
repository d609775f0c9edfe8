"""The files that the browser gets."""
