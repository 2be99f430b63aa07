"""Calibration: statistics of the inputs of linear layers, taken block by block."""
