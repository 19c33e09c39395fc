"""One process of an engine: python engine_process.py CHECKPOINT MESH [ADDRESS COUNT NUMBER].

Process 0 asks what `questions` has, and prints the answers as JSON; the others follow.
"""

import json
import sys

import jax


def questions() -> list:
    """Twelve requests of several samples, images and settings, for four slots."""
    import numpy as np
    from engine_cases import ask, words
    from PIL import Image

    rng = np.random.default_rng(0)
    result = []
    for i in range(12):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        images = [Image.fromarray(pixels)] if i % 3 == 0 else []
        settings = {"temperature": 0.0} if i % 4 == 1 else {"top_p": 0.9, "top_k": 50}
        text = words(rng, int(rng.integers(3, 60)))
        n = 1 + 2 * (i % 2)
        if i % 2:
            settings |= {"repetition_penalty": 1.2, "bad_words": ("a", "th")}
        tokens = int(rng.integers(3, 30))
        result.append(
            ask(text, images=images, seed=i, n=n, max_tokens=tokens, **settings)
        )
    return result  # fmt: skip


def answers(engine) -> list:
    """What the samples of the questions say, and with which log-probabilities."""
    from engine_cases import submit

    listeners = [submit(engine, request) for request in questions()]
    return [
        [[sample.ids, [token.logprob for token in sample.tokens], sample.text]]
        for listener in listeners
        for sample in listener.wait()
    ]


def main(checkpoint: str, mesh: str, *process: str) -> None:
    if process:
        address, count, number = process
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, int(count), int(number))
    from r1v3_jax.engine.checkpoints import open_checkpoint
    from r1v3_jax.engine.engine import Engine
    from r1v3_jax.engine.sizes import EngineSettings
    from r1v3_jax.sharding import make_mesh

    with jax.set_mesh(make_mesh(tuple(map(int, mesh.split(","))))):
        settings = EngineSettings(slots=4, max_prompt_tokens=160, max_tokens=32)
        engine = Engine(open_checkpoint(checkpoint), settings)
    if jax.process_index() > 0:
        engine.follow()
        return
    engine.start()
    engine.wait_until_ready()
    said = answers(engine)
    numbers = engine.numbers()
    assert numbers.compilations == 0, numbers
    engine.stop()
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
