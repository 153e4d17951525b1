"""A small instance on servers of its own, to see mastosync work before pointing it at a real one."""
