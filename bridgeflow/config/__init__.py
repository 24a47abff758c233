"""What a run is made of, as YAML files and checked settings."""
