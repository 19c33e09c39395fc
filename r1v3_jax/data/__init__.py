"""Files -> examples -> batches on the devices.

A user's config needs only what is imported here: sources of examples, and sources made of sources.
"""

from r1v3_jax.data.made import Made
from r1v3_jax.data.mixtures import ByPassRate, Curriculum, Mixture, Phase
from r1v3_jax.data.reworded import Reworded
from r1v3_jax.data.sources import Rows

__all__ = ["ByPassRate", "Curriculum", "Made", "Mixture", "Phase", "Reworded", "Rows"]
