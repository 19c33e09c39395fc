"""Hugging Face checkpoints in and out."""

__all__ = ["describe", "load", "save"]
