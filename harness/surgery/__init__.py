"""What makes a model smaller, and what depends on what in it."""
