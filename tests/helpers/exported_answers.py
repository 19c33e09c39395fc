"""Does the exported directory of a run answer, in transformers, what the run's own model answers?

    python tests/exported_answers.py --workdir=runs/digits --questions=200

Question and picture go through the exported processor and chat template into torch, greedily, in
float32; every token must be the same. Not collected by pytest; test_pipeline.py asks a few.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import numpy as np
import torch
from torch_reference import ImageProcessorOnly
from transformers import AutoModelForImageTextToText

from r1v3_jax.config import load
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing import tokenizer as processing_tokenizer
from r1v3_jax.processing.processor import Processor
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.run import weights
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import StepInfo


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--config", default="digits")
    parser.add_argument("--questions", type=int, default=200)
    arguments = parser.parse_args()
    config = load.load_config(arguments.config)
    differing, count = compare(config, arguments.workdir, arguments.questions)
    print(f"{count} held-out questions, {len(differing)} answered differently")
    for question, ours, theirs in differing[:5]:
        print(f"  {question}\n    ours   {ours!r}\n    theirs {theirs!r}")
    raise SystemExit(bool(differing))


def compare(config, workdir, count: int) -> tuple[list[tuple[str, str, str]], int]:
    """((question, our answer, theirs) where they differ, questions asked)."""
    sources = [source for _, source in config.evaluate.sets]
    examples = [sources[i % len(sources)](i // len(sources)) for i in range(count)]
    tokenizer = processing_tokenizer.load(workdir / "tokenizer")
    sampler = GroupSampler(
        processor=Processor(config.model, tokenizer),
        sampling=SamplingParams(
            max_tokens=config.evaluate.max_tokens,
            temperature=0.0,
            banned=tokenizer.banned_token_ids,
        ),
        max_prompt_tokens=config.evaluate.max_prompt_tokens,
        tiles=count,
        group_size=1,
    )
    model = for_decoding(
        weights.load_weights(workdir / list(config.stages)[-1] / "done")
    )
    info = StepInfo(0, jax.random.key(0), config.evaluate.max_tokens, 1.0)
    groups = sampler.groups(model, examples, info)

    processor = ImageProcessorOnly.from_pretrained(workdir / "export")
    theirs = AutoModelForImageTextToText.from_pretrained(
        workdir / "export", dtype=torch.float32
    )
    differing = []
    for example, group in zip(examples, groups, strict=True):
        content = [{"type": "image", "image": example.images[0]}]
        content.append({"type": "text", "text": example.question})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        assert inputs["input_ids"][0].tolist() == group.prompt.tokens.tolist()
        pixels = inputs["pixel_values"].numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(
            pixels, group.prompt.tiles, atol=1e-5
        )  # one rounding apart
        with torch.no_grad():
            out = theirs.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=config.evaluate.max_tokens,
                suppress_tokens=list(tokenizer.banned_token_ids),
            )
        answer = out[0, inputs["input_ids"].shape[1] :].tolist()
        mine = group.completions.tokens[0, : group.completions.lengths[0]].tolist()
        if answer != mine:
            texts = (
                tokenizer.decode(ids, skip_special=False) for ids in (mine, answer)
            )
            differing.append((example.question, *texts))
    return differing, len(examples)


if __name__ == "__main__":
    main()
