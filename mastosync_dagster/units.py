"""Units of bytes, and the largest numbers that settings may be."""

MEGABYTE = 1_000_000
"""What messages and settings call MB, as providers do."""
MIB = 1024 * 1024
LARGEST_NUMBER = 999_999_999
"""Of gigabytes, dollars, and what is counted a second. What is computed from it stays a finite number."""
MOST_ROWS = 1_000_000_000_000
"""More than any table has; PostgreSQL takes limits and offsets up to 2^63 - 1."""
