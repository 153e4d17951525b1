"""Tests of the switch to the new bucket."""
