"""Recipes of bridgeflow-edges, each in the folder of its task."""
