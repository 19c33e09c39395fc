"""Files -> examples -> batches on the devices."""

__all__ = ["ByPassRate", "Curriculum", "Mixture", "Phase", "Rows"]
