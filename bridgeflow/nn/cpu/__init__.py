"""Layers with backward passes of their own, for training on a CPU."""
