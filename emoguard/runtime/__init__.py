"""Shared by every runtime: the watch, sessions, phases, attaching, opening by path."""
