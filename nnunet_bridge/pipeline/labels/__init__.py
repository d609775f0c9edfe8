"""Commands on labelmaps: score, clean, mesh, view."""
