"""From rows to the objects that must be at the destination."""
