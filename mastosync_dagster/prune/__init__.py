"""Lists or deletes orphans: objects that no row expects."""
