"""Compares two storages, and writes down what is to be copied."""
