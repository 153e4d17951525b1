"""Dagster's runs: the processes that execute them, the files that they leave behind, and their history."""
