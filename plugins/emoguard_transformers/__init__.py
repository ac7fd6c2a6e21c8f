"""Joins EmoGuard to Hugging Face Transformers models."""
