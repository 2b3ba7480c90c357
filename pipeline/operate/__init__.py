"""The commands that ask a running daemon, and change it: `headgate status`, `workers`, `routes` and others."""
