"""The numerical parts that methods share."""
