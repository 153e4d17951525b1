"""What an installation needs beside the code: a home, settings, the processes that serve it, units for systemd."""
