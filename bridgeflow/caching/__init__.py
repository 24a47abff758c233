"""Latents encoded once and kept in sharded files, from which training goes on without the codecs."""
