"""The SSH tunnel to a private database."""
