"""The policy: its sections, its reader and its reload."""
