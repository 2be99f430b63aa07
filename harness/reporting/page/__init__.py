"""The page: all records in one HTML file that a browser opens from disk, without a network."""
