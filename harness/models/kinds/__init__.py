"""Kinds of models, one file each: what loads them, what they are trained on, and which data they take."""
