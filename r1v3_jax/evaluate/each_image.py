"""Prompts in which every image has all tiles, however many images there are."""

from r1v3_jax.processing import tiling
from r1v3_jax.processing.processor import Processor, Tiles
from r1v3_jax.types import Example


class EachImageProcessor(Processor):
    """Gives every image of a prompt all `max_tiles`, as the report's server did."""

    def tiles(self, example: Example) -> Tiles:
        if self.config.vision is None:
            return super().tiles(example)
        images = list(example.images)
        size = self.config.vision.image_size
        limits = {"tile_size": size, "max_tiles": self.config.max_tiles, "share": False}

        def cut(target):
            tiling.tile_images(images, out=target, **limits)

        return Tiles(tiling.count_tiles(images, **limits), size, cut)
