"""Fetches lost objects from the servers that they are copies of."""
