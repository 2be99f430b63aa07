"""One file a zero-shot task or family of tasks: where its questions lie, and the definition that asks them."""
