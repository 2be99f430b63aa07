"""Figures from the tidy frame of records, each one Vega-Lite chart that files and the page draw alike."""
