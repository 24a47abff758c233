"""Velocity networks and source encoders."""
