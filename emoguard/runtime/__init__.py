"""What every runtime shares: the watch, sessions, phases, attaching."""
