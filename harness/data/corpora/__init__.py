"""One file a corpus: where its text, token arrays or images lie, and how they become sequences."""
