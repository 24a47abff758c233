"""Recipes that come with bridgeflow, one YAML file each: <task>/<recipe>.yaml."""
