"""What is written down, as files: plans, manifests, findings, doubt lists."""
