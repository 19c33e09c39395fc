"""Skywork-R1V3 in JAX: a vision-language model trained to reason, on TPU, GPU or CPU."""

__version__ = "0.1.0"
