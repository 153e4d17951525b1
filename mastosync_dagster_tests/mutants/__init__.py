"""Planted bugs: mutations of the checks that protect objects, each of which some test must notice."""
