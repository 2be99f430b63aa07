"""Generation tasks: one file each."""
