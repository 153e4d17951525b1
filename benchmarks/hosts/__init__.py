"""Small hosts: what mastosync takes of them, and whether it holds there."""
