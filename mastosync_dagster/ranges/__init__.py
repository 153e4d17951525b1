"""ID ranges: the partitions of every file type."""
