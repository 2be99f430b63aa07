"""Tables as text: one file a format."""
