"""Reads and steers residuals that are tensors of torch, for every runtime built on it."""
