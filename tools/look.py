"""Shows what the tokens of an answer took from each part of a picture.

python tools/look.py --checkpoint=CHECKPOINT --image=cat.png --prompt="What is this?" --out=look.png

The picture, and for each token a copy on which violet parts made the token likelier and orange
parts less likely. The numbers are nats of its log-probability; see `evaluate/image_heat.py`.
Without --answer the checkpoint answers, greedily.

python tools/look.py --workdir=runs/digits --samples=4

The same for answers of a run, on its page: WORKDIR/report/heat.html. --file and --id choose others
than those of the probe.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags

from r1v3_jax import cli
from r1v3_jax.evaluate.image_heat import grid_of, image_heat, on_picture
from r1v3_jax.files import write_json
from r1v3_jax.processing import image_files, tiling
from r1v3_jax.processing.tokenizer import check_prompt_length, image_index, load
from r1v3_jax.report.look import look_at_run
from r1v3_jax.report.page import write_report
from r1v3_jax.run import weights

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A checkpoint of ours, as runs/digits/grpo/done."
)
IMAGE = flags.DEFINE_string("image", None, "The picture.")
PROMPT = flags.DEFINE_string("prompt", None, "The user's turn.")
OUT = flags.DEFINE_string(
    "out", None, "The .png to write; a .json beside it has the numbers."
)
WORKDIR = flags.DEFINE_string("workdir", None, "A run, to look at answers of its own.")
FILE = flags.DEFINE_string(
    "file", "", "Its file of samples, as grpo_000080; default: of the probe."
)
QUESTION = flags.DEFINE_string("id", "", "Id of the question to look at; default: any.")
SAMPLES = flags.DEFINE_integer("samples", 4, "Answers of the run to look at.", 1)
ANSWER = flags.DEFINE_string("answer", None, "The answer; default: the checkpoint's.")
PLACE = flags.DEFINE_multi_integer(
    "place",
    [],
    "Number of a token of the answer, from 0; may be given several times. Default: the first 12.",
    lower_bound=0,
)
MAX_TOKENS = flags.DEFINE_integer("max_tokens", 64, "Of the checkpoint's answer.", 1)
SHOWN = 12  # tokens, by default


def main():
    single = {"checkpoint": CHECKPOINT, "image": IMAGE, "prompt": PROMPT, "out": OUT}
    missing = [f"--{name}" for name, flag in single.items() if flag.value is None]
    if WORKDIR.value is not None:
        if IMAGE.value is not None or PROMPT.value is not None:
            raise ValueError(
                "--workdir looks at answers of a run; leave out --image and --prompt"
            )
        look_at_workdir(Path(WORKDIR.value))
    elif missing:
        raise ValueError(
            f"{' '.join(missing)} is missing; or give --workdir, as runs/digits"
        )
    else:
        look_at_one()


def look_at_workdir(workdir: Path) -> None:
    """Shows answers of a run on its page."""
    folder, count = look_at_run(
        workdir,
        SAMPLES.value,
        checkpoint=CHECKPOINT.value or "",
        name=FILE.value,
        question=QUESTION.value,
    )
    write_report(workdir)
    print(f"{count} answers: {folder.parent}/heat.html")


def look_at_one() -> None:
    """Shows one answer about one picture."""
    # 1. Everything that can be wrong, before weights are loaded.
    out = Path(OUT.value)
    if out.suffix != ".png" or not out.absolute().parent.is_dir():
        raise ValueError(
            f"--out={out}: wanted a .png in a directory that exists, as look.png"
        )
    config, _ = weights.read_config(CHECKPOINT.value)
    if config.vision is None:
        raise ValueError(f"{CHECKPOINT.value} is a language model: it sees no pictures")
    tokenizer = load(f"{CHECKPOINT.value}/tokenizer", text_only=False)
    tokenizer.check_model(config)
    image = image_files.open_image(IMAGE.value)
    size = config.vision.image_size
    tiles, (count,) = tiling.tile_images(
        [image], tile_size=size, max_tiles=config.max_tiles
    )
    messages = [{"role": "user", "content": PROMPT.value}]
    image_tokens = [count * config.image_tokens_per_tile]
    prompt = tokenizer.encode_prompt(messages, image_tokens)
    check_prompt_length(len(prompt) + MAX_TOKENS.value, config.text.max_positions)

    # 2. The answer, and what its tokens took from the picture.
    model = weights.load_weights(CHECKPOINT.value)
    if ANSWER.value is None:
        answer = greedy(model, prompt, tiles, MAX_TOKENS.value)
    else:
        answer = list(tokenizer.encode_text(ANSWER.value))
    chosen = PLACE.value or range(min(SHOWN, len(answer)))
    if not answer or max(chosen) >= len(answer):
        raise ValueError(
            f"--place={max(chosen, default=0)}: the answer has {len(answer)} tokens, from 0 to "
            f"{len(answer) - 1}"
        )
    row = np.asarray([prompt + answer], np.int32)
    index = image_index(row, config.image_token_id)
    places = np.asarray([len(prompt) + k for k in chosen], np.int32)
    heat, worth = jax.device_get(image_heat(model, row, index, tiles, places))

    # 3. The picture and the numbers.
    grid = grid_of(image, count, config.max_tiles, size)
    maps = [on_picture(one, grid) for one in heat]
    texts = [tokenizer.decode([answer[k]], skip_special=False) for k in chosen]
    draw(out, image, maps, texts)
    rows = [
        {
            "place": k,
            "text": text,
            "nats": float(nats),
            "heat": np.round(one, 6).tolist(),
        }
        for k, text, nats, one in zip(chosen, texts, worth, maps, strict=True)
    ]
    whole = tokenizer.decode(answer, skip_special=False)
    write_json(out.with_suffix(".json"), {"answer": whole, "tokens": rows})
    print(f"answer: {whole!r}\n{out}")


def greedy(model, prompt: list[int], tiles: np.ndarray, limit: int) -> list[int]:
    """Returns the ids of the likeliest answer, token by token, with its end."""
    config = model.config
    row = np.asarray([prompt], np.int32)
    lengths = np.asarray([len(prompt)], np.int32)
    index = image_index(row, config.image_token_id)
    images = jax.jit(type(model).encode_images)(model, tiles)
    logits, filled = jax.jit(type(model).prefill)(model, row, lengths, images, index)
    cache = model.new_cache(filled, group_size=1, max_tokens=limit)
    decode = jax.jit(type(model).decode)
    answer = []
    while len(answer) < limit:
        # Rows of padding in the vocabulary are no tokens.
        answer.append(int(jnp.argmax(logits[0, : config.text.vocab_size])))
        if answer[-1] == config.end_token_id:
            break
        logits, cache = decode(model, np.asarray(answer[-1:], np.int32), cache)
    return answer


def draw(out: Path, image, maps: list[np.ndarray], texts: list[str]) -> None:
    """Draws the picture, and a copy for each token with its heat, all on one scale."""
    scale = max(max(float(np.abs(one).max()) for one in maps), 1e-6)
    columns = min(len(maps) + 1, 5)
    rows = -(-(len(maps) + 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.2 * columns, 2.5 * rows), layout="constrained"
    )
    axes = np.atleast_1d(axes).ravel()
    extent = (0, image.width, image.height, 0)
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(image, extent=extent)
    axes[0].set_title("the picture", fontsize=9)
    for axis, one, text in zip(axes[1:], maps, texts, strict=False):
        axis.imshow(image.convert("L"), cmap="gray", extent=extent)
        # Red would be lost on some readers; these two are told apart by any colour vision.
        colours = axis.imshow(
            one, cmap="PuOr", vmin=-scale, vmax=scale, alpha=0.65, extent=extent
        )
        # A dollar would begin a formula.
        axis.set_title(
            f"{text!r}: {one.sum():+.2f} nats".replace("$", r"\$"), fontsize=9
        )
    figure.colorbar(colours, ax=axes.tolist(), shrink=0.8, label="nats of log p")
    figure.savefig(out, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    cli.run(main)
