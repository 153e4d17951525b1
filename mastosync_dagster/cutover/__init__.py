"""What is left to do before and after the switch: the plan, the checks, the media host's nginx configuration."""
