"""Figures for papers, from the tidy frame of records: PNG and PDF, one figure a protocol, never two in one axis."""
