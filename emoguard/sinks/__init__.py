"""Monitors and exporters: their seam, opening them, carrying reports to them."""
