"""Notices to users: when they are due, their words, their delivery."""
