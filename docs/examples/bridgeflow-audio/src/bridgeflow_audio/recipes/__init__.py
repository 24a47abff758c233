"""Recipes of bridgeflow-audio, one YAML file each: <task>/<recipe>.yaml."""
