"""Small machines with real systemd, in containers: what `mastosync init` writes is what runs there."""
