"""Modalities and data sets that come with bridgeflow."""
