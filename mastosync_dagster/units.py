"""Units of bytes."""

MEGABYTE = 1_000_000
"""What messages and settings call MB, as providers do."""
MIB = 1024 * 1024
