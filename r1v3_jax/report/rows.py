"""What rows of data look like to a model: on the terminal, and as a page of HTML with pictures.

The rows are somebody else's: whatever of them is shown is escaped, and a page has no scripts and
asks for nothing from anywhere.
"""

import base64
import collections
import html
import io
import itertools
import unicodedata

import numpy as np
from PIL import Image

from r1v3_jax.data import reader
from r1v3_jax.processing import tiling
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.types import REASONS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .6rem }
mark { background: #ffe08a } mark.label { background: #b5e3c8 } .image { color: #0072b2 }
figure { display: inline-block; margin: 0 .3rem .3rem 0 }
figure img { height: 9rem; display: block }
td, th { text-align: left; padding: 0 1rem 0 0 } .bar { background: #d55e00; height: .7rem }
"""
SHOWN_TEXT = 20_000  # characters of one row
SHOWN_TILES = 40


def plain(text: str) -> str:
    """Text whose control, direction and other invisible characters are spelled out, as \\u202e."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )  # fmt: skip


def runs(one: Encoded, processor: Processor) -> list[tuple[str, str]]:
    """The text of an example in (kind, text) runs: "given", "learnt", "image" for a row of image
    tokens, "label" for one that has to be named.
    """
    behind = np.zeros(
        len(one.tokens), bool
    )  # the loss of image tokens stands one to the right
    is_image = one.tokens == processor.config.image_token_id
    behind[1:] = is_image[:-1]
    named = behind & one.loss_mask
    kinds = np.where(one.loss_mask & ~named, "learnt", "given").astype(object)
    kinds[is_image] = "label" if named.any() else "image"
    out, at = [], 0
    for kind, group in itertools.groupby(kinds):
        size = len(list(group))
        ids = one.tokens[at : at + size]
        if kind in ("image", "label"):
            name = processor.tokenizer.decode(ids[:1], skip_special=False)
            text = f"{name} x {size}"
        else:
            text = processor.tokenizer.decode(ids, skip_special=False)
        out.append((kind, text))
        at += size
    return out


def line(item: reader.Item) -> str:
    """The name of a row and its size."""
    one, example = item.encoded, item.example
    learnt = f", {int(one.loss_mask.sum())} learnt from" if one.loss_mask.any() else ""
    return plain(
        f"{example.id}: {len(one.tokens)} tokens{learnt}, {len(one.tiles)} tiles"
    )


def on_terminal(item: reader.Item, processor: Processor) -> str:
    """A row in lines of text."""
    text = plain("".join(text for _, text in runs(item.encoded, processor))[:1000])
    out = line(item) + "\n    " + text.replace("\n", "\n    ")
    if not item.encoded.loss_mask.any():
        out += f"\n    answer: {plain(item.example.answer)}"
    return out


def page(
    title: str,
    facts: list[str],
    items: list[reader.Item],
    dropped: list[dict],
    processor: Processor,
) -> str:
    """An HTML document: facts about the data, why rows were left out, and the rows themselves."""
    parts = [f"<p>{escaped(fact)}</p>" for fact in facts]
    if dropped:
        parts.append(_histogram(dropped))
    parts.append(
        "<p>In the text: <mark>learnt from</mark>, <span class=image>image tokens</span>, "
        "<mark class=label>image tokens that are to be named</mark>.</p>"
    )
    parts += [_row(item, processor) for item in items]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escaped(title)}</h1>\n{body}\n</body></html>\n"
    )


def escaped(text: str) -> str:
    return html.escape(
        plain(text[:SHOWN_TEXT]) + (" [...]" if len(text) > SHOWN_TEXT else "")
    )


def _histogram(dropped: list[dict]) -> str:
    counts = collections.Counter(drop["reason"] for drop in dropped).most_common()
    rows = "".join(
        f"<tr><td>{escaped(reason)}</td><td>{count}</td><td style='width:20rem'>"
        f"<div class=bar style='width:{100 * count / counts[0][1]:.0f}%'></div></td>"
        f"<td>{escaped(REASONS[reason])}</td></tr>"
        for reason, count in counts
    )
    first = {
        drop["reason"]: drop for drop in reversed(dropped)
    }  # of each reason, an example
    examples = "".join(
        f"<li>{escaped(reason)}: {escaped(drop['id'])}, {escaped(drop['detail'])}</li>"
        for reason, drop in first.items()
    )
    return f"<h2>Rows left out</h2><table>{rows}</table><p>For example:</p><ul>{examples}</ul>"


def _row(item: reader.Item, processor: Processor) -> str:
    example = item.example
    tags = {
        "given": ("", ""), "learnt": ("<mark>", "</mark>"),
        "image": ("<span class=image>", "</span>"), "label": ("<mark class=label>", "</mark>"),
    }  # fmt: skip
    text = "".join(
        tags[kind][0] + escaped(text) + tags[kind][1]
        for kind, text in runs(item.encoded, processor)
    )
    named = {
        "source": example.source, "level": example.level, "kind": example.kind,
        "answer": example.answer, "verifier": example.verifier, **example.metadata,
    }  # fmt: skip
    facts = ", ".join(f"{key}: {value}" for key, value in named.items() if value != "")
    pictures = "".join(
        f"<figure><img alt='tile {n}' src='{_address(tile)}'></figure>"
        for n, tile in enumerate(item.encoded.tiles.array[:SHOWN_TILES])
    )
    return (
        f"<h2>{escaped(line(item))}</h2><p>{escaped(facts)}</p><div>{pictures}</div>"
        f"<pre>{text}</pre>"
    )


def _address(tile: np.ndarray) -> str:
    """A tile, float32[S, S, 3], as a data: address."""
    pixels = (
        np.clip((tile * tiling.STD + tiling.MEAN) * 255, 0, 255)
        .round()
        .astype(np.uint8)
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
