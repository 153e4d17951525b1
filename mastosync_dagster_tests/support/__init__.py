"""Servers and tools that only the tests need."""
