"""Shows what rows of data look like to a model: on the terminal, and as a page of HTML.

The rows come from strangers: whatever is shown of them is escaped, and a page has no scripts and
loads nothing from anywhere.
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
from r1v3_jax.processing import image_files, tiling
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.types import REASONS, Film

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .6rem }
mark { background: #ffe08a } mark.label { background: #b5e3c8 } .image { color: #0072b2 }
figure { display: inline-block; margin: 0 .3rem .3rem 0 }
figure img { height: 9rem; display: block }
.film { white-space: nowrap; overflow-x: auto; border-left: .3rem solid; padding-left: .3rem }
.film figure img { height: 6rem }
td, th { text-align: left; padding: 0 1rem 0 0 } .bar { background: #d55e00; height: .7rem }
"""
SHOWN_TEXT = 20_000  # characters of one row
SHOWN_TILES = 80
# Unicode categories of control, direction and other invisible characters, and of surrogates.
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# The tags around each kind of `runs`.
TAGS = {
    "context": ("", ""),
    "learnt": ("<mark>", "</mark>"),
    "image": ("<span class=image>", "</span>"),
    "label": ("<mark class=label>", "</mark>"),
}


def plain(text: str) -> str:
    """Spells out control, direction and other invisible characters of a text, as \\u202e."""
    # Most texts have none.
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    characters = []
    for character in text:
        is_invisible = unicodedata.category(character) in INVISIBLE
        # Newlines and tabs are control characters too, but harmless ones.
        if is_invisible and character not in "\n\t":
            code = character.encode("unicode_escape", "surrogatepass")
            character = code.decode()
        characters.append(character)
    return "".join(characters)


def runs(encoded: Encoded, processor: Processor) -> list[tuple[str, str]]:
    """Cuts the text of an example into (kind, text) runs.

    Kinds: "learnt" has a loss, "context" has none, "image" is a row of image tokens, "label" is
    one whose tokens have to be named.
    """
    # The loss of an image token is one to its right, see `Processor._label_images`:
    #
    #     tokens      <img>  I   I  </img>  \n        loss_mask   0   0   1   1   0
    #     is_image      0    1   1    0     0         named       0   0   1   1   0
    is_image = encoded.tokens == processor.config.image_token_id
    follows_image = np.zeros(len(encoded.tokens), bool)
    follows_image[1:] = is_image[:-1]
    named = follows_image & encoded.loss_mask
    learnt = encoded.loss_mask & ~named
    kinds = np.where(learnt, "learnt", "context").astype(object)
    kinds[is_image] = "label" if named.any() else "image"

    pieces = []
    start = 0
    for kind, group in itertools.groupby(kinds):
        size = len(list(group))
        ids = encoded.tokens[start : start + size]
        if kind in ("image", "label"):
            # 256 image tokens are shown as one and their number.
            token = processor.tokenizer.decode(ids[:1], skip_special=False)
            text = f"{token} x {size}"
        else:
            text = processor.tokenizer.decode(ids, skip_special=False)
        pieces.append((kind, text))
        start += size
    return pieces


def line(item: reader.Item) -> str:
    """Writes the name of a row, its size, and what was done to its images."""
    encoded = item.encoded
    num_learnt = int(encoded.loss_mask.sum())
    learnt = f", {num_learnt} learnt from" if num_learnt else ""
    size = f"{len(encoded.tokens)} tokens{learnt}, {len(encoded.tiles)} tiles"
    return plain("; ".join([f"{item.example.id}: {size}", *image_changes(item)]))


def image_changes(item: reader.Item) -> list[str]:
    """Tells which images of a row were changed on the way, and how; and what is seen of its films.

    ["film 1: 4 frames, 0.5 s to 3.5 s", "image 2 turned by EXIF orientation 6"]
    """
    notes = []
    for number, film in enumerate(item.example.films, start=1):
        notes.append(f"film {number}: {_film_text(film)}")
    for number, image in enumerate(item.example.images, start=1):
        notes += [f"image {number} {change}" for change in image_files.changes(image)]
    return notes


def on_terminal(item: reader.Item, processor: Processor) -> str:
    """Writes a row in lines of text."""
    pieces = [text for _, text in runs(item.encoded, processor)]
    shown = plain("".join(pieces)[:1000])
    lines = [line(item), *shown.split("\n")]
    # A prompt has no loss and no answer in its text.
    if item.example.chosen is not None:
        lines += [f"{name}: {plain(text)}" for name, text in pair_of(item).items()]
    elif not item.encoded.loss_mask.any():
        lines.append(f"answer: {plain(item.example.answer)}")
    return "\n    ".join(lines)


def pair_of(item: reader.Item) -> dict[str, str]:
    """Returns the two answers of a row of preferences by name; none of another row."""
    example = item.example
    if example.chosen is None:
        return {}
    return {"chosen": example.chosen, "rejected": example.rejected}


def page(
    title: str,
    facts: list[str],
    items: list[reader.Item],
    dropped: list[dict],
    processor: Processor,
) -> str:
    """Writes an HTML document: facts about the data, why rows were left out, and the rows."""
    parts = [f"<p>{escaped(fact)}</p>" for fact in facts]
    if dropped:
        parts.append(_histogram(dropped))
    parts.append(
        "<p>In the text: <mark>learnt from</mark>, <span class=image>image tokens</span>, "
        "<mark class=label>image tokens that are to be named</mark>.</p>"
    )
    parts += [_row(item, processor) for item in items]
    body = "\n".join(parts)
    # The policy is a second wall: should something slip through, a browser runs and loads nothing.
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escaped(title)}</h1>\n{body}\n</body></html>\n"
    )


def escaped(text: str) -> str:
    """Returns text as HTML that shows it, cut after SHOWN_TEXT characters."""
    shown = plain(text[:SHOWN_TEXT])
    if len(text) > SHOWN_TEXT:
        shown += " [...]"
    return html.escape(shown)


def _histogram(dropped: list[dict]) -> str:
    """Writes why rows were left out: a bar for each reason, and an example of each."""
    counts = collections.Counter(drop["reason"] for drop in dropped).most_common()
    _, highest = counts[0]
    rows = []
    for reason, count in counts:
        width = 100 * count / highest
        rows.append(
            f"<tr><td>{escaped(reason)}</td><td>{count}</td><td style='width:20rem'>"
            f"<div class=bar style='width:{width:.0f}%'></div></td>"
            f"<td>{escaped(REASONS[reason])}</td></tr>"
        )
    # Going backwards, the row that is kept of each reason is the one that came before the others.
    by_reason = {drop["reason"]: drop for drop in reversed(dropped)}
    examples = []
    for reason, drop in by_reason.items():
        name = escaped(drop["id"])
        detail = escaped(drop["detail"])
        examples.append(f"<li>{escaped(reason)}: {name}, {detail}</li>")
    return (
        f"<h2>Rows left out</h2><table>{''.join(rows)}</table>"
        f"<p>For example:</p><ul>{''.join(examples)}</ul>"
    )


def _row(item: reader.Item, processor: Processor) -> str:
    """Writes one row: its name, its fields, its tiles and its text."""
    example = item.example
    text = ""
    for kind, piece in runs(item.encoded, processor):
        before, after = TAGS[kind]
        text += before + escaped(piece) + after
    for name, answer in pair_of(item).items():
        text += f"\n\n<mark>{name}</mark>\n{escaped(answer)}"
    fields = {
        "source": example.source,
        "level": example.level,
        "kind": example.kind,
        "answer": example.answer,
        "verifier": example.verifier,
        **example.metadata,
    }
    facts = [f"{key}: {value}" for key, value in fields.items() if value != ""]
    return (
        f"<h2>{escaped(line(item))}</h2><p>{escaped(', '.join(facts))}</p>"
        f"{_pictures(item)}<pre>{text}</pre>"
    )


def _film_text(film: Film) -> str:
    """Says what is seen of a film: "4 frames, 0.5 s to 3.5 s"."""
    text = f"{film.frames} frames" if film.frames > 1 else "1 frame"
    if not film.seconds:
        return text
    if film.frames == 1:
        return f"{text}, at {film.seconds[0]:g} s"
    return f"{text}, {film.seconds[0]:g} s to {film.seconds[-1]:g} s"


def _pictures(item: reader.Item) -> str:
    """Writes the tiles of a row as pictures, those of each film as a strip with their seconds."""
    # tiles of the images [2, 1, 1], a film of the last two   ->   ends [2, 3, 4]
    counts = item.encoded.tiles.counts
    ends = list(itertools.accumulate(counts))
    in_film = {}
    for film in item.example.films:
        for k in range(film.frames):
            second = f"{film.seconds[k]:g} s" if film.seconds else f"{k + 1}"
            in_film[film.first + k] = (film, second)
    shown = item.encoded.tiles.array[:SHOWN_TILES]
    parts = []
    groups = itertools.groupby(
        range(len(counts)), key=lambda k: in_film.get(k, (None,))[0]
    )
    for film, numbers in groups:
        figures = ""
        for k in numbers:
            caption = f"<figcaption>{in_film[k][1]}</figcaption>" if film else ""
            for n in range(ends[k] - counts[k], min(ends[k], len(shown))):
                source = _address(shown[n])
                figures += (
                    f"<figure><img alt='tile {n}' src='{source}'>{caption}</figure>"
                )
        parts.append(f"<div{' class=film' if film else ''}>{figures}</div>")
    if len(item.encoded.tiles) > len(shown):
        parts.append(f"<p>{len(item.encoded.tiles) - len(shown)} more tiles</p>")
    return "".join(parts)


def _address(tile: np.ndarray) -> str:
    """Encodes a tile, float32[S, S, 3], as a data: address of a PNG."""
    # Undoes the normalisation; rounding gives back the very bytes of the image.
    colours = (tile * tiling.STD + tiling.MEAN) * 255
    pixels = np.clip(colours, 0, 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = base64.b64encode(file.getvalue())
    return "data:image/png;base64," + data.decode()
