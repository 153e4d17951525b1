"""Compares the destination with the rows and the source, and changes nothing."""
