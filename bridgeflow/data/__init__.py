"""Rows of data: generic readers, columns, sampling order, checks."""
