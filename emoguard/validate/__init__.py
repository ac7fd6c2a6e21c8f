"""Judges directions: transfer, the text alone, chance, and intervals for all numbers."""
