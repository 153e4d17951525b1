"""Copies what the destination lacks: an asset per file type, and the night."""
