"""The `emoguard` command."""
