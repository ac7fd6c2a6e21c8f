"""Joins EmoGuard to `llama_cpp.Llama` models."""
