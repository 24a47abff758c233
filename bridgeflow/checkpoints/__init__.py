"""Checkpoints: written whole or not at all, opened, read into a bridge."""
