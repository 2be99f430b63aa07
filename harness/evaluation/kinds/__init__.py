"""One file a kind of evaluation: its protocol, what it prepares, how it measures, what memory it needs."""
