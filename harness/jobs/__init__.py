"""Jobs: planned, launched, run."""
