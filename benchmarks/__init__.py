"""What mastosync costs, beside what an admin would use instead: ``make bench``."""
