"""An OpenAI-compatible server on the trainer's own model."""
