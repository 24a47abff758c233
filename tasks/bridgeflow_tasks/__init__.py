"""Tasks that come with bridgeflow."""
