"""What is done and what is left: `counts.py` finds out, `screen.py` shows it, `rates.py` says how fast it went."""
