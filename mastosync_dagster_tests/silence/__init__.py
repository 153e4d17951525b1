"""Hosts that fall silent: packets vanish between network namespaces."""
