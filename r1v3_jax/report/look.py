"""Computes what tokens of a few written answers took from their pictures, for the page of a run.

The answers are those of the probe that belongs to the chosen checkpoint, half of them wrong where
there are wrong ones; of a run without a probe, those of the last written step.
"""

import itertools
from pathlib import Path

import numpy as np

from r1v3_jax.evaluate.image_heat import (
    grid_of,
    image_heat,
    image_worth,
    on_picture,
)
from r1v3_jax.files import read_json
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing import image_files, tiling
from r1v3_jax.processing.tokenizer import Tokenizer, image_index, load
from r1v3_jax.report.heat import write_heat
from r1v3_jax.report.pictures import NAME
from r1v3_jax.report.run_numbers import label
from r1v3_jax.report.samples import Sample, StepFile, read_samples, step_files
from r1v3_jax.run import weights

TOKENS = 12  # of an answer: those to which the pictures mattered most


def look_at_run(
    workdir: Path,
    count: int,
    *,
    checkpoint: str = "",
    name: str = "",
    question: str = "",
) -> tuple[Path, int]:
    """Writes WORKDIR/report/heat for `count` answers; returns the folder and how many they are.

    checkpoint: "" for WORKDIR/STAGE/done of the stage that sampled them. name: of their file, as
    "grpo_000080"; "" for the probe's. question: the id of the one that they answer; "" for any.
    ValueError or OSError if there is no such checkpoint, file, or answer that can be shown.
    """
    # 1. What to show, and by which weights.
    file = samples_file(workdir, name)
    stage = file.stage.removesuffix(".probe")
    directory = Path(checkpoint) if checkpoint else workdir / stage / "done"
    if not checkpoint and not directory.exists():
        raise FileNotFoundError(
            f"{directory}: stage {stage} is not finished; wait, or name other weights of this "
            "model with --checkpoint"
        )
    config, _ = weights.read_config(directory)
    if config.vision is None:
        raise ValueError(f"{directory} is a language model: it sees no pictures")
    tokenizer = load(workdir / "tokenizer", text_only=False)
    tokenizer.check_model(config)
    chosen = choose_samples(file, count, question)
    if not chosen:
        asked = f" to {question!r}" if question else ""
        raise ValueError(
            f"{file.path} has no answer{asked} whose pictures were kept; nothing to look at"
        )

    # 2. The heat of each, and the page's files.
    model = weights.load_weights(directory)
    shown = [look_at(model, tokenizer, workdir, sample) for sample in chosen]
    when = f"{label(file.stage)}, step {file.step}"
    for sample in shown:
        sample["step"] = when
    about = {"checkpoint": str(directory), "samples_of": file.path.name}
    return write_heat(workdir / "report", shown, about), len(shown)


def samples_file(workdir: Path, name: str = "") -> StepFile:
    """Returns the file of answers to look at. FileNotFoundError if the run has not written it."""
    files = step_files(workdir)
    if not files:
        raise FileNotFoundError(
            f"{workdir}/rollouts has no file of samples; give the --workdir of a run with a "
            "stage of GRPO, as runs/digits"
        )
    if name:
        named = [file for file in files if file.name == name]
        if not named:
            raise FileNotFoundError(
                f"{workdir}/rollouts/{name}.jsonl: no such file; {files[-1].name} would do"
            )
        return named[0]
    probes = [file for file in files if file.stage.endswith(".probe")]
    newest = max(probes or files, key=lambda file: file.path.stat().st_mtime_ns)
    if not probes:
        return newest
    # The checkpoint that was chosen may be of an earlier probe than the last.
    account = workdir / newest.stage.removesuffix(".probe") / "account.json"
    if account.exists():
        last = read_json(account).get("chosen_step", 0) - 1
        same = [x for x in probes if x.stage == newest.stage and x.step == last]
        newest = same[0] if same else newest
    return newest


def choose_samples(file: StepFile, count: int, question: str = "") -> list[Sample]:
    """Returns `count` answers with pictures: wrong and right ones in turn, as far as there are.

    No two are about the same question, unless there are too few questions. question: the id of one.
    """
    lines = set(range(10_000))
    samples = [
        sample
        for sample in read_samples(file.path, lines)
        if sample is not None
        and question in ("", sample.id)
        and sample.images
        and all(NAME.fullmatch(name) for name in sample.images)
        and len(sample.tiles) == len(sample.images)
        and sample.lists.get("tokens")
    ]
    wrong = [sample for sample in samples if sample.verdict != "right"]
    right = [sample for sample in samples if sample.verdict == "right"]
    in_turn = itertools.chain(*itertools.zip_longest(wrong, right))
    first = {}
    again = []
    for sample in in_turn:
        if sample is None:
            continue
        if sample.id in first:
            again.append(sample)
        else:
            first[sample.id] = sample
    return [*first.values(), *again][:count]


def look_at(model: R1V3, tokenizer: Tokenizer, workdir: Path, sample: Sample) -> dict:
    """Returns the fields of `heat.HeatSample` for one answer, as `heat.write_heat` takes them."""
    # 1. The question as the policy saw it, and its answer, token by token.
    config = model.config
    images = [
        image_files.open_image(workdir / "rollouts" / name) for name in sample.images
    ]
    size = config.vision.image_size
    # An image of n > 1 tiles has a thumbnail among them.
    limits = [max(1, count - 1) for count in sample.tiles]
    tiles, counts = tiling.tile_images(images, tile_size=size, max_tiles=limits)
    if counts != sample.tiles:
        raise ValueError(
            f"{sample.id}: its pictures have {counts} tiles and had {sample.tiles} in the run; "
            "the pictures in rollouts/images are not those of the run"
        )
    turns = (*sample.before, ("user", sample.prompt))
    messages = [{"role": role, "content": content} for role, content in turns]
    image_tokens = [count * config.image_tokens_per_tile for count in counts]
    prompt = tokenizer.encode_prompt(messages, image_tokens)
    answer = [int(token) for token in sample.lists["tokens"]]
    row = np.asarray([prompt + answer], np.int32)
    index = image_index(row, config.image_token_id)

    # 2. The tokens to which the pictures mattered most, and where it came from.
    worth = np.asarray(image_worth(model, row, index, tiles))[len(prompt) :]
    most = np.argsort(-np.abs(worth), kind="stable")[:TOKENS]
    places = np.sort(most)
    heat = np.asarray(image_heat(model, row, index, tiles, places + len(prompt))[0])

    # 3. As they lie on the picture that gave it most.
    ends = np.cumsum(counts)
    tokens = []
    for place, all_tiles in zip(places.tolist(), heat, strict=True):
        parts = np.split(all_tiles, ends[:-1])
        image = int(np.argmax([np.abs(part).sum() for part in parts]))
        grid = grid_of(images[image], counts[image], limits[image], size)
        tokens.append(
            {
                "place": place,
                "text": tokenizer.decode([answer[place]], skip_special=False),
                "nats": float(worth[place]),
                "image": image + 1,
                "heat": on_picture(parts[image], grid),
            }
        )
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "answer": sample.answer,
        "verdict": sample.verdict,
        "completion": sample.completion,
        "images": images,
        "tokens": tokens,
    }
