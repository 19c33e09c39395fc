"""The demonstration task: questions about 2 x 2 grids of real handwritten digits.

Answers are integers, chains of thought are written by a program, and everything is a pure function
of an index: no state, no download, no order in which examples must be made.

    4 7     Add the two rows.        47 38 stepwise:7+8=15;4+3=7;7+1=8;85 / </think> / \\boxed{85}
    3 8     (a slash is a newline)   read  style    work

Levels: `read` only copies the digits and `sums` is arithmetic without an image, what a pretrained
model brings along; `easy` and `normal` are for the cold start; `hard` asks what `normal` asks, for
sums of 130 and more with a carry, which no chain of the cold start shows.
Knows nothing of models or rewards. `write_tokenizer` makes a vocabulary for this task alone.

Letters: N examples, M images, 4 the cells of a grid in reading order.
"""

import dataclasses
import functools
import importlib.resources
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from r1v3_jax.types import Example

CELL = 28  # pixels a side of a digit; an image has 2 x 2
MAX_SHIFT = 2  # pixels, of an augmented digit
FILES = {
    "home": ("mnist10k.npz", 8000),
    "second": ("uci_digits.npz", 900),
}  # name, train images
SPLITS = ("train", "held_out")
SPLIT_SEED = (
    0  # of the permutation before the split: one of the files is sorted by label
)

LEVELS = {  # kinds of question, equally often
    "read": ("read",),
    "easy": ("spread", "even"),
    "normal": ("rows", "total"),
    "hard": ("rows",),
}
LARGE = 130  # a sum of rows that is so large, and carries from its ones, is hard
SUMS = 5  # in an example of the level `sums`
QUESTIONS = {
    "read": ("Read the digits.", "Copy all four digits."),
    "spread": (
        "Largest minus smallest?",
        "Subtract the smallest digit from the largest.",
    ),
    "even": ("How many digits are even?", "Count the even digits."),
    "rows": (
        "Add the two rows.",
        "Top row plus bottom row?",
        "What is the sum of the rows?",
    ),
    "total": ("Add all four digits.", "What is the sum of all digits?"),
}
STYLES = {
    "direct": "",
    "worked": " stepwise:",
    "checked": " carefully:",
}  # what follows the digits
SLIP = 0.5  # of the checked chains make a mistake and correct it; the others look back at the end
CRITICAL_WORDS = ("Wait", "Hmm", "Alternatively")


@dataclasses.dataclass(frozen=True)
class Digits:
    """Questions over one set of images.

    domain: "home" is MNIST; "second" is other writers, coarser and larger (UCI, 8 x 8 pixels over
    the whole cell). split: of the images; no image is in both. augment: each digit is shifted by
    up to MAX_SHIFT pixels, train split only. styles: weights of the chains' STYLES; nothing else
    depends on them.
    """

    domain: Literal["home", "second"] = "home"
    split: Literal["train", "held_out"] = "train"
    seed: int = 0
    augment: bool = False
    styles: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self):
        _check("domain", self.domain, FILES)
        _check("split", self.split, SPLITS)
        if self.augment and self.split != "train":
            raise ValueError(
                "augment=True with split='held_out': held-out images stay as they are"
            )
        if (
            len(self.styles) != len(STYLES)
            or min(self.styles) < 0
            or not sum(self.styles) > 0
        ):
            raise ValueError(
                f"styles are weights of {', '.join(STYLES)}, got {self.styles}"
            )

    def example(self, index: int, level: str = "normal") -> Example:
        """Example number `index` of a level; a pure function of the arguments and the fields."""
        if level == "sums":
            return self._sums(index)
        u = self._uniforms(index, level)
        kind, digits = _problem(level, u)
        style = "direct" if kind == "read" else _weighted(STYLES, self.styles, u[16])
        grid = self._grids([self._image_ids(digits, u)], [self._shifts(u)])[0]
        return Example(
            id=f"digits/{self.domain}/{self.split}/{self.seed}/{level}/{index}",
            images=(Image.fromarray(grid).convert("RGB"),),
            question=_choose(QUESTIONS[kind], u[15]),
            answer=_answer_text(kind, digits),
            chain=_chain(kind, digits, style, u[17:]),
            level=level,
            kind=kind,
            # One image token a digit, where a patch is half a digit (14 pixels).
            image_labels=tuple(map(str, digits)),
        )

    def _sums(self, index: int) -> Example:
        """Sums in text: the arithmetic that a language model brings along."""
        u = self._rng(index, 1 + len(LEVELS)).random((SUMS, 3))
        # As in the chains: a digit and a digit, or a sum so far and a digit.
        pairs = [
            (int(10 + 18 * y if x < 0.4 else 10 * y), int(10 * z))
            for x, y, z in u.tolist()
        ]
        largest = max(x + y for x, y in pairs)
        steps = ";".join(f"{x}+{y}={x + y}" for x, y in pairs)
        return Example(
            id=f"digits/sums/{self.seed}/{index}",
            images=(),
            question=f"Largest of {' '.join(f'{x}+{y}' for x, y in pairs)}?",
            answer=f"{largest}",
            chain=f"{steps};{largest}\n</think>\n\\boxed{{{largest}}}",
            level="sums",
            kind="sums",
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """index -> example, its level drawn by weight: `Digits().mix(easy=1, normal=2)`."""
        for level, weight in weights.items():
            _check("level", level, (*LEVELS, "sums"))
            if not weight > 0:
                raise ValueError(
                    f"the weight of {level} must be positive, got {weight}"
                )
        return functools.partial(self._mixed, tuple(weights), tuple(weights.values()))

    def labels(self, index: int, level: str = "normal") -> tuple[int, int, int, int]:
        """The four digits in the image of that example, in reading order."""
        return _problem(level, self._uniforms(index, level))[1]

    def images(self, indices: Iterable[int], level: str = "normal") -> np.ndarray:
        """uint8[N, 56, 56, 3]: the images of many examples at once."""
        draws = [self._uniforms(index, level) for index in indices]
        ids = [self._image_ids(_problem(level, u)[1], u) for u in draws]
        grids = self._grids(ids, [self._shifts(u) for u in draws])
        return np.repeat(grids[..., None], 3, axis=-1)

    def _mixed(
        self, levels: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        return self.example(index, _weighted(levels, weights, u))

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        domain, split = list(FILES).index(self.domain), SPLITS.index(self.split)
        return np.random.default_rng([self.seed, domain, split, stream, index])

    def _uniforms(self, index: int, level: str) -> list[float]:
        """All chance in an example, each number with one use:

        0-2 the problem, 3-6 the images, 7-14 the shifts, 15 the question, 16 the style, 17-19 the
        chain.
        """
        _check("level", level, LEVELS)
        return self._rng(index, 1 + list(LEVELS).index(level)).random(20).tolist()

    def _image_ids(self, digits: Sequence[int], u: list[float]) -> list[int]:
        by_label = _load(self.domain, self.split)[1]
        return [
            _choose(by_label[digit], x) for digit, x in zip(digits, u[3:7], strict=True)
        ]

    def _shifts(self, u: list[float]) -> list[int]:
        """Down and right for each digit in turn, from -MAX_SHIFT to MAX_SHIFT pixels."""
        return [
            int(x * (2 * MAX_SHIFT + 1)) - MAX_SHIFT if self.augment else 0
            for x in u[7:15]
        ]

    def _grids(self, ids: list[list[int]], shifts: list[list[int]]) -> np.ndarray:
        """ids N x 4, shifts N x 8 -> uint8[N, 56, 56]."""
        pixels, _ = _load(self.domain, self.split)
        grids = np.empty((len(ids), 2, CELL, 2, CELL), np.uint8)
        for n, cell in itertools.product(range(len(ids)), range(4)):
            top, left = (
                MAX_SHIFT - shift for shift in shifts[n][2 * cell : 2 * cell + 2]
            )
            digit = pixels[ids[n][cell], top : top + CELL, left : left + CELL]
            grids[n, cell // 2, :, cell % 2] = digit
        return grids.reshape(-1, 2 * CELL, 2 * CELL)


@functools.cache
def _load(domain: str, split: str) -> tuple[np.ndarray, list[list[int]]]:
    """(uint8[M, 32, 32], the image numbers of each label); a margin of 2 makes room for shifts."""
    name, train = FILES[domain]
    with (importlib.resources.files("r1v3_jax") / "data_files" / name).open(
        "rb"
    ) as file:
        arrays = np.load(file)
        x, y = arrays["x"], arrays["y"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(y))
    chosen = order[:train] if split == "train" else order[train:]
    if domain == "home":
        x = x[chosen].reshape(-1, CELL, CELL)
    else:
        x = np.stack([_enlarge(image) for image in x[chosen].reshape(-1, 8, 8)])
    pixels = np.pad(x, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)))
    return pixels, [np.flatnonzero(y[chosen] == digit).tolist() for digit in range(10)]


def _enlarge(image: np.ndarray) -> np.ndarray:
    """uint8[8, 8] of 0 to 16 -> uint8[28, 28] of 0 to 255.

    20 pixels within a margin of 4, as MNIST was made: what is left to shift is the writers and the
    resolution, not the scale.
    """
    grey = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
    return np.pad(np.asarray(grey.resize((20, 20), Image.Resampling.BILINEAR)), 4)


def answer_prior(level: str) -> dict[str, float]:
    """By kind, the accuracy of the best constant answer: what can be had without looking."""
    _check("level", level, LEVELS)
    priors = {}
    for kind in LEVELS[level]:
        groups, odds = _problems(level, kind), Counter()
        for group in groups:
            for answer, count in Counter(
                _answer(kind, digits) for digits in group
            ).items():
                odds[answer] += count / (len(group) * len(groups))
        priors[kind] = max(odds.values())
    return priors


def _problem(level: str, u: list[float]) -> tuple[str, tuple[int, int, int, int]]:
    kind = _choose(LEVELS[level], u[0])
    return kind, _choose(_choose(_problems(level, kind), u[1]), u[2])


@functools.cache
def _problems(level: str, kind: str) -> list[list[tuple[int, int, int, int]]]:
    """The grids that are asked about, in groups drawn equally often."""
    grids = list(itertools.product(range(10), repeat=4))
    if kind == "rows":
        grids = [
            (a, b, c, d) for a, b, c, d in grids if a and c
        ]  # two digits, and no 07
        large = lambda g: g[1] + g[3] >= 10 and _answer(kind, g) >= LARGE  # noqa: E731
        return [[g for g in grids if large(g) == (level == "hard")]]
    if kind == "even":  # else 2 would be right three times out of eight
        return [[g for g in grids if _answer(kind, g) == count] for count in range(5)]
    return [grids]


def _answer(kind: str, digits: Sequence[int]) -> int:
    a, b, c, d = digits
    match kind:
        case "read":
            return 1000 * a + 100 * b + 10 * c + d
        case "spread":
            return max(digits) - min(digits)
        case "even":
            return sum(digit % 2 == 0 for digit in digits)
        case "rows":
            return 10 * a + b + 10 * c + d
        case "total":
            return sum(digits)
    raise AssertionError(kind)


def _answer_text(kind: str, digits: Sequence[int]) -> str:
    return f"{_answer(kind, digits):0{4 if kind == 'read' else 1}}"


def _chain(kind: str, digits: Sequence[int], style: str, u: list[float]) -> str:
    """Reading, reasoning in a style, answer. Every statement is true but corrected slips.

    direct    47 38
    worked    47 38 stepwise:7+8=15;4+3=7;7+1=8;85
    checked   47 38 carefully:7+8=14 Wait,7+8=15;4+3+1=8;85               a slip
              47 38 carefully:7+8=15;4+3+1=8;85 Alternatively,70+15=85    a look back
    """
    a, b, c, d = digits
    steps = [] if style == "direct" else _steps(kind, digits)
    look_back = ""
    if style == "checked" and u[0] < SLIP:
        at, wrong, word = _choose(_slips(kind, digits, steps, u[1]), u[2])
        steps[at] = f"{wrong} {word},{steps[at]}"
    elif style == "checked":
        look_back = _choose(_looks_back(kind, digits), u[2])
    text = f"{a}{b} {c}{d}{STYLES[style]}{';'.join(steps)}{look_back}"
    return f"{text}\n</think>\n\\boxed{{{_answer_text(kind, digits)}}}"


def _steps(kind: str, digits: Sequence[int]) -> list[str]:
    a, b, c, d = digits
    answer = _answer(kind, digits)
    match kind:
        case "spread":
            return [f"{max(digits)}-{min(digits)}={answer}"]
        case "even":
            return [_listed(digits, 0), f"{answer}"]
        case "rows":
            carry = [f"{a + c}+1={a + c + 1}"] if b + d > 9 else []
            return [f"{b}+{d}={b + d}", f"{a}+{c}={a + c}", *carry, f"{answer}"]
        case "total":
            return [
                f"{a}+{b}={a + b}",
                f"{a + b}+{c}={a + b + c}",
                f"{a + b + c}+{d}={answer}",
            ]
    raise AssertionError(kind)


def _slips(kind: str, digits: Sequence[int], steps: list[str], u: float):
    """Mistakes to make: (number of the step, what it says wrongly, the word of doubt)."""
    a, b, c, d = digits
    slips = []
    for at, step in enumerate(steps):
        left, equals, right = step.rpartition("=")
        if equals or kind == "even" and at == 1:
            near = [value for value in (int(right) - 1, int(right) + 1) if value >= 0]
            slips.append((at, f"{left}{equals}{_choose(near, u)}", "Wait"))
    match kind:
        case "spread":
            second = sorted(digits)[-2]
            if second < max(digits):
                slips.append(
                    (0, f"{second}-{min(digits)}={second - min(digits)}", "Hmm")
                )
        case "even":
            even = [digit for digit in digits if digit % 2 == 0]
            if len(even) > 1:  # overlooks one
                slips.append((0, _listed(even[:-1], 0), "Hmm"))
        case "rows":
            if b + d > 9:  # forgets to carry
                slips.append((2, f"{_answer(kind, digits) - 10}", "Hmm"))
    return slips


def _looks_back(kind: str, digits: Sequence[int]) -> tuple[str, ...]:
    """Ways to test an answer: backwards, or in another order."""
    a, b, c, d = digits
    answer = _answer(kind, digits)
    match kind:
        case "spread":
            return (f" Wait,{min(digits)}+{answer}={max(digits)} ok",)
        case "even":
            return (f" Alternatively,{_listed(digits, 1)};4-{4 - answer}={answer}",)
        case "rows":
            tens, ones = 10 * (a + c), b + d
            return (
                f" Wait,{answer}-{c}{d}={a}{b} ok",
                f" Alternatively,{a}0+{c}0={tens};{tens}+{ones}={answer}",
            )
        case "total":
            return (
                f" Wait,{answer}-{d}={a + b + c} ok",
                f" Alternatively,{c}+{d}={c + d};{a + b}+{c + d}={answer}",
            )
    raise AssertionError(kind)


def _listed(digits: Sequence[int], parity: int) -> str:
    return ",".join(str(digit) for digit in digits if digit % 2 == parity) or "none"


def style_of(completion: str) -> str:
    """The style that a completion begins in, or "other" if it does not begin with the digits."""
    if match := re.match(r"\d\d \d\d", completion):
        rest = completion[match.end() :]
        for style, opening in STYLES.items():
            if rest.startswith(opening or "\n</think>"):
                return style
    return "other"


def _choose(options: Sequence, u: float):
    """One of the options, all equally likely for a uniform 0 <= u < 1."""
    return options[int(u * len(options))]


def _weighted(options: Iterable, weights: Sequence[float], u: float):
    u *= sum(weights)
    for option, weight in zip(options, weights, strict=True):
        if weight > 0:
            chosen = option  # the last one also where rounding leaves a rest
            if u < weight:
                break
        u -= weight
    return chosen


def _check(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose from {', '.join(choices)}")


# Words of the task; a word after another holds the space before it.
SPECIAL_TOKENS = "<|endoftext|> <|im_start|> <|im_end|> <img> </img> <IMG_CONTEXT> <video> <unk>".split()


def vocabulary() -> list[str]:
    """The tokens in order of their ids; at most 128, so that the padded embedding has no more."""
    questions = itertools.chain.from_iterable(QUESTIONS.values())
    words = {word for text in questions for word in re.findall(r" ?[A-Za-z]+", text)}
    words |= {f" {word}" for word in CRITICAL_WORDS} | {
        " ok",
        "none",
        *STYLES.values(),
    } - {""}
    structure = ["system", "user", "assistant", "<think>", "</think>", "\\boxed{", "}"]
    letters = [chr(code) for code in (*range(ord("a"), ord("z") + 1), *range(65, 91))]
    return [
        *SPECIAL_TOKENS,
        *structure,
        *"0123456789+-=;,.?: \n",
        *sorted(words),
        *letters,
    ]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary.

    A digit is a token, and so are a word of the questions with the space before it, `\\boxed{`
    and each critical word. Other English falls into letters. Chat format: ChatML without a system
    turn, opened by `<think>`.
    """
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    from r1v3_jax.processing.chat import ChatFormat, chat_template

    words = vocabulary()
    longest_first = sorted(words[len(SPECIAL_TOKENS) :], key=len, reverse=True)
    pattern = tokenizers.Regex("|".join(map(re.escape, longest_first)))
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {word: i for i, word in enumerate(words)}, unk_token="<unk>"
        )
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        pattern, behavior="isolated"
    )
    backend.decoder = tokenizers.decoders.Fuse()  # joins without spaces
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=True)
            for token in SPECIAL_TOKENS
        ]
    )
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        extra_special_tokens={  # the names that transformers' InternVLProcessor asks for
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        chat_template=chat_template(ChatFormat(system=None, opening="<think>\n")),
        clean_up_tokenization_spaces=False,
    )
    hf.save_pretrained(directory)
    return len(hf)


def contact_sheet(
    examples: Sequence[Example], path: str | Path, columns: int = 4
) -> None:
    """A PNG of examples with question, chain and answer, for a human to look at."""
    width, height, scale, line = 380, 210, 2, 14
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, example in enumerate(examples):
        x, y = i % columns * width + 8, i // columns * height + 8
        image = example.images[0]
        sheet.paste(image.resize((image.width * scale, image.height * scale)), (x, y))
        y += image.height * scale + 4
        text = [example.id, f"{example.question} -> {example.answer}"]
        for part in (example.chain or "").split("\n"):
            text += [part[at : at + 56] for at in range(0, len(part), 56)]
        for number, part in enumerate(text):
            draw.text((x, y + number * line), part, fill="black", font=font)
    sheet.save(path)
