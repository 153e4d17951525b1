"""Carries out a plan: streams objects from the source to the destination, in one thread over one event loop."""
