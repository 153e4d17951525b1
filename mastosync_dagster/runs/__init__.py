"""Dagster's runs: who executes one, what they leave behind, what their history says."""
