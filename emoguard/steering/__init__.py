"""Steering plans, their numbers for one model file, and the bound that always holds."""
