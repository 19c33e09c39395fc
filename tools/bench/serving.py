"""Measures the engine of the server beside `sampling.loop.generate`, which knows all at the start.

python tools/bench/serving.py --requests=256 --clients=64 --slots=32

Both answer the same prompts with the same model, whose answers have 8 to 512 tokens. The clients
ask one question after the other. CPU seconds are those of all threads of this process.
"""

import dataclasses
import json
import tempfile
import threading
import time

import jax
import numpy as np
from absl import flags
from shapes import FIRST_ID, SHAPES, RandomProcessor, count_down, example
from tokenizers import AddedToken
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from r1v3_jax import cli
from r1v3_jax.engine.checkpoints import Source
from r1v3_jax.engine.encoding import Prepared
from r1v3_jax.engine.engine import Engine
from r1v3_jax.engine.programs import no_change
from r1v3_jax.engine.requests import Chunk, Request, RequestSettings, Turn
from r1v3_jax.engine.sizes import EngineSettings
from r1v3_jax.models import build
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.sampling.loop import generate
from r1v3_jax.sampling.params import SamplingParams

REQUESTS = flags.DEFINE_integer("requests", 256, "To be answered.", 1)
CLIENTS = flags.DEFINE_integer("clients", 64, "That ask at a time.", 1)
SLOTS = flags.DEFINE_integer("slots", 32, "Answers sampled at a time.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 1, "Of each, in turn.", 1)

SHAPE = SHAPES["ragged"]


def main():
    model = for_decoding(build.init(SHAPE.model, SHAPE.compute))
    model = count_down(model, SHAPE)
    processor = RandomProcessor(SHAPE)
    prompts = [
        processor.prompt(example(i, SHAPE)).tokens for i in range(REQUESTS.value)
    ]
    # The last token decides how long an answer is: the same in both, with the same tail.
    for ids, length in zip(prompts, draw_lengths(REQUESTS.value), strict=True):
        ids[-1] = FIRST_ID + length
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = make_tokenizer(directory, SHAPE.model.text.vocab_size)
    source = Source(SHAPE.model, tokenizer, "float32", lambda compute: model)
    settings = EngineSettings(
        slots=SLOTS.value,
        max_prompt_tokens=SHAPE.prompt_tokens,
        max_tokens=SHAPE.new_tokens,
        queue=REQUESTS.value,
    )
    engine = Engine(source, settings)
    engine.start()
    engine.wait_until_ready()
    host = HostWork(engine)
    run_all(model, prompts, limit=1)  # compiles
    compiled = engine.numbers().compilations
    for round_ in range(ROUNDS.value):
        report = {
            "generate": run_all(model, prompts),
            "engine": run_engine(engine, prompts, CLIENTS.value, host),
            # Nobody waits for a slot.
            "no queue": run_engine(engine, prompts[: SLOTS.value], SLOTS.value, host),
            "one at a time": run_engine(engine, prompts[:4], 1, host),
        }
        print(json.dumps({"round": round_, **report}), flush=True)
    print(f"compilations by requests: {engine.numbers().compilations - compiled}")
    engine.stop()


def draw_lengths(count: int) -> np.ndarray:
    """Draws tokens of answers, log-uniform from the shortest to the longest, int64[count]."""
    rng = np.random.default_rng(0)
    ends = np.log([SHAPE.shortest, SHAPE.new_tokens - 1])
    return np.exp(rng.uniform(*ends, count)).astype(int)


def make_tokenizer(directory: str, size: int):
    """Returns a tokenizer of bytes with so many tokens."""
    vocab = {character: byte for byte, character in bytes_to_unicode().items()}
    hf = Qwen2Tokenizer(vocab=vocab, merges=[])
    hf.add_tokens([AddedToken(x) for x in ("<|im_start|>", "<|im_end|>")])
    hf.add_tokens([AddedToken(f"<{i}>") for i in range(size - len(hf))])
    hf.save_pretrained(directory)
    return load(directory, text_only=True)


def run_all(model, prompts: list[np.ndarray], limit: int = SHAPE.new_tokens) -> dict:
    """Samples one answer to each prompt by one call."""
    start = Start()
    completions = generate(
        model,
        np.stack(prompts),
        np.array([len(prompt) for prompt in prompts], np.int32),
        jax.random.key(0),
        limit=np.int32(limit),
        slots=SLOTS.value,
        sampling=SamplingParams(max_tokens=SHAPE.new_tokens),
    )
    return start.report(int(np.sum(completions.lengths)))


def run_engine(engine, prompts: list[np.ndarray], clients: int, host) -> dict:
    """Lets clients ask: each asks its next question when one is answered."""
    host.seconds = 0.0
    start = Start()
    waits = []
    asked = iter(enumerate(prompts))
    left = threading.Semaphore(0)
    tokens = []

    def ask_next():
        number, ids = next(asked, (None, None))
        if ids is None:
            return
        began = time.perf_counter()
        is_first = [True]

        def listen(chunk: Chunk):
            if is_first[0]:
                waits.append(time.perf_counter() - began)
                is_first[0] = False
            tokens.append(len(chunk.tokens))
            if chunk.finish_reason:
                ask_next()
                left.release()

        engine.submit(prepared(ids, number), listen)

    for _ in range(min(clients, len(prompts))):
        ask_next()
    for _ in prompts:
        left.acquire()
    report = start.report(sum(tokens))
    first = np.percentile(waits, [50, 95])
    return report | {
        "first_token_s": [round(float(s), 3) for s in first],
        "host_between_runs": round(host.seconds / report["cpu_s"], 4),
    }


def prepared(ids: np.ndarray, seed: int) -> Prepared:
    """Returns a request in numbers, without a text that was encoded."""
    settings = RequestSettings(SHAPE.new_tokens, seed=seed)
    return Prepared(
        request=Request((Turn("user", ("",)),), settings, thinking=False),
        tokens=ids,
        tiles=None,
        max_tokens=SHAPE.new_tokens,
        seed=seed,
        banned_sequences=no_change(1).banned_sequences[0],
    )


@dataclasses.dataclass
class Start:
    """A moment, in both clocks."""

    wall: float = dataclasses.field(default_factory=time.perf_counter)
    cpu: float = dataclasses.field(default_factory=time.process_time)

    def report(self, tokens: int) -> dict:
        cpu = time.process_time() - self.cpu
        return {
            "tokens": tokens,
            "cpu_s": round(cpu, 2),
            "wall_s": round(time.perf_counter() - self.wall, 2),
            "tokens_per_cpu_s": round(tokens / cpu, 1),
        }


class HostWork:
    """Counts the CPU seconds of the engine's thread while nothing runs on the devices."""

    def __init__(self, engine: Engine):
        self.seconds = 0.0
        for name in ("_fill_slots", "_take"):
            setattr(engine, name, self.timed(getattr(engine, name)))

    def timed(self, function):
        def call(*arguments):
            began = time.thread_time()
            result = function(*arguments)
            self.seconds += time.thread_time() - began
            return result

        return call


if __name__ == "__main__":
    cli.run(main)
