"""A request in numbers: its chat as token ids, its images as tiles, its settings checked.

Runs on the host alone, in any thread. Whatever is wrong with a request is a BadRequest here, before
it waits for a slot.
"""

import dataclasses
import functools
import math
import secrets

import numpy as np

from r1v3_jax.config import ModelConfig
from r1v3_jax.data.turns import THOUGHT_END, with_thought
from r1v3_jax.engine.programs import NO_LIMIT, TOP, WORD_TOKENS, WORDS, Sizes
from r1v3_jax.engine.requests import BadRequest, Request, RequestSettings, Turn
from r1v3_jax.engine.text import Pieces
from r1v3_jax.processing import tiling
from r1v3_jax.processing.chat import IMAGE_MARKER
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.processing.processor import Tiles
from r1v3_jax.processing.tokenizer import Tokenizer, check_token_ids

# Below this a temperature is greedy: logits divided by less would not be finite.
COLDEST = 1e-5
# A smaller top_p is 0 as a float32 beside 1, and would keep no token.
SMALLEST_TOP_P = 1e-6
MAX_IMAGES = 60  # of one request, as the report's server had
MAX_TILES = 64  # that a request may give an image


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A request in numbers; made by `Encoder.prepare`."""

    request: Request
    tokens: np.ndarray  # int32[T]
    tiles: Tiles | None  # None without images
    max_tokens: int  # what was asked for, or the room there is
    seed: int
    banned_sequences: np.ndarray  # int32[WORDS, WORD_TOKENS], see `RowParams`

    @property
    def prompt_tokens(self) -> int:
        return len(self.tokens)


class Encoder:
    """Makes requests into numbers for one model."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, sizes: Sizes):
        self.config = config
        self.sizes = sizes
        self.pieces = Pieces(tokenizer)
        self.think_end = tokenizer.closing()
        # The report's NoThink: the template without <think>.
        no_think = dataclasses.replace(tokenizer.chat, opening="")
        self.tokenizers = {
            True: tokenizer,
            False: dataclasses.replace(tokenizer, chat=no_think),
        }

    def prepare(self, request: Request) -> Prepared:
        """Encodes a request. BadRequest if it cannot be answered."""
        settings = request.settings
        check_settings(settings, self.sizes.slots, self.config.text.vocab_size)
        self._check_text(request)
        tiles, order = self._tiles(request)
        tokens = self._tokens(request, tiles)
        limit = self.sizes.prompt_tokens
        if len(tokens) > limit:
            raise BadRequest(
                f"the prompt has {len(tokens)} tokens, of which {self._image_tokens(tiles)} are of "
                f"images, and this server takes {limit}; shorten it or give it fewer tiles",
                "messages",
            )
        if tiles is not None:
            _check_pixels(request, order)
        room = self.config.text.max_positions - len(tokens)
        seed = secrets.randbits(63) if settings.seed is None else settings.seed
        return Prepared(
            request=request,
            tokens=tokens,
            tiles=tiles,
            max_tokens=min(settings.max_tokens, self.sizes.max_tokens, room),
            seed=seed % 2**64,
            banned_sequences=self._banned(settings.bad_words),
        )

    def _check_text(self, request: Request) -> None:
        """BadRequest for a chat of the wrong form, or one that is far too long to be read."""
        check_turns(request.turns)
        texts = [part for turn in request.turns for part in turn.parts]
        characters = sum(len(part) for part in texts if isinstance(part, str))
        most = self.sizes.prompt_tokens * self.pieces.longest
        if characters > most:
            raise BadRequest(
                f"the messages have {characters} characters, which are more than the "
                f"{self.sizes.prompt_tokens} tokens that this server takes; shorten them",
                "messages",
            )

    def _tiles(self, request: Request) -> tuple[Tiles | None, list[int]]:
        """Counts the tiles of the images in the order in which the turns show them."""
        order = [
            part for turn in request.turns for part in turn.parts if is_number(part)
        ]
        count = len(request.images)
        if sorted(order) != list(range(count)):
            raise BadRequest(
                f"the turns show the images {order}, and {count} were given; show each once",
                "messages",
            )
        if not count:
            return None, order
        if self.config.vision is None:
            raise BadRequest("this model reads text only; send no images", "messages")
        if count > MAX_IMAGES:
            raise BadRequest(
                f"{count} images in one request; at most {MAX_IMAGES}", "messages"
            )
        most = request.max_tiles
        if most is not None and not (is_number(most) and 1 <= most <= MAX_TILES):
            raise BadRequest(
                f"max_tiles is {most!r}; wanted 1 to {MAX_TILES}, as 12", "messages"
            )
        # Every image may have all tiles, as in the report's evaluation.
        images = [request.images[number] for number in order]
        size = self.config.vision.image_size
        limits = [self.config.max_tiles if most is None else most] * count
        try:
            counts = tiling.count_tiles(images, tile_size=size, max_tiles=limits)
        except (ValueError, OSError) as error:
            raise BadRequest(one_line(error), "messages") from error

        def cut(target):
            tiling.tile_images(images, tile_size=size, max_tiles=limits, out=target)

        return Tiles(counts, size, cut), order

    def _image_tokens(self, tiles: Tiles | None) -> int:
        return 0 if tiles is None else len(tiles) * self.config.image_tokens_per_tile

    def _tokens(self, request: Request, tiles: Tiles | None) -> np.ndarray:
        tokenizer = self.tokenizers[request.thinking]
        messages = [
            {"role": turn.role, "content": self._content(turn, request.thinking)}
            for turn in request.turns
        ]
        counts = [] if tiles is None else tiles.counts
        image_tokens = [count * self.config.image_tokens_per_tile for count in counts]
        limit = self.sizes.prompt_tokens
        if sum(image_tokens) > limit:
            raise BadRequest(
                f"the images have {sum(counts)} tiles, which are {sum(image_tokens)} tokens, and "
                f"this server takes {limit} for a prompt; send fewer or smaller images",
                "messages",
            )
        try:
            ids = tokenizer.encode_prompt(messages, image_tokens)
            check_token_ids(ids, self.config.text.vocab_size)
        except ValueError as error:
            raise BadRequest(one_line(error), "messages") from error
        return np.asarray(ids, np.int32)

    def _content(self, turn: Turn, thinking: bool) -> str:
        """Returns the text of a turn with a marker for each image.

        What looks like a control token or a marker in its text is encoded as characters. Images in
        front of a turn's only text stand on lines of their own, as the chat format puts them.
        """
        tokenizer = self.tokenizers[thinking]
        is_in_front = all(is_number(part) for part in turn.parts[:-1])
        marker = f"{IMAGE_MARKER}\n" if is_in_front else IMAGE_MARKER
        pieces = [
            marker if is_number(part) else tokenizer.as_text(part)
            for part in turn.parts
        ]
        content = "".join(pieces)
        if turn.role != "assistant":
            return content
        # An earlier answer may come without its thought, as many clients keep it: its turn begins
        # with a thought of nothing, which has ended. Without <think> there is none to end.
        opens = "<think>" in tokenizer.chat.opening
        if opens and THOUGHT_END not in content:
            return with_thought("", content, "an answer")
        return content if opens else content.rpartition(THOUGHT_END)[2].lstrip("\n")

    @functools.cached_property
    def _no_words(self) -> np.ndarray:
        return np.full((WORDS, WORD_TOKENS), -1, np.int32)

    def _banned(self, words: tuple[str, ...]) -> np.ndarray:
        """Returns the token sequences of words, as they are and after a space."""
        if not words:
            return self._no_words
        tokenizer = self.tokenizers[True]
        sequences = set()
        for word in words:
            for form in (word, f" {word}"):
                try:
                    ids = tokenizer.encode_text(tokenizer.as_text(form))
                except ValueError as error:
                    raise BadRequest(one_line(error), "bad_words") from error
                sequences.add(tuple(ids))
        longest = max(map(len, sequences))
        if longest > WORD_TOKENS or len(sequences) > WORDS:
            raise BadRequest(
                f"bad_words are {len(sequences)} sequences of up to {longest} tokens, at most "
                f"{WORDS} of {WORD_TOKENS}; ban fewer or shorter words",
                "bad_words",
            )
        table = self._no_words.copy()
        for row, sequence in zip(table, sorted(sequences), strict=False):
            row[len(row) - len(sequence) :] = sequence
        return table


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def is_number(part) -> bool:
    return isinstance(part, int) and not isinstance(part, bool)


def _check_pixels(request: Request, order: list[int]) -> None:
    """BadRequest for an image that cannot be decoded: its tiles are only cut when it is read."""
    for number in order:
        image = request.images[number]
        if isinstance(image, StoredImage):
            try:
                image.decode()
            except (ValueError, OSError) as error:
                raise BadRequest(one_line(error), "messages") from error


def check_turns(turns: tuple[Turn, ...]) -> None:
    """BadRequest unless turns are a chat whose last turn is the user's."""
    if not turns:
        raise BadRequest("there are no messages; send one of the user", "messages")
    for i, turn in enumerate(turns):
        is_known = turn.role in ("system", "user", "assistant")
        if not is_known or (turn.role == "system" and i):
            raise BadRequest(
                f"message {i} has the role {str(turn.role)[:50]!r}; wanted user or assistant, or "
                "system as the first",
                "messages",
            )
        if turn.role == "assistant" and any(is_number(part) for part in turn.parts):
            raise BadRequest(
                f"message {i}, the assistant's, has an image; only others can have one",
                "messages",
            )
    if turns[-1].role != "user":
        raise BadRequest(
            f"the last message is by the {turns[-1].role}; it must be the user's",
            "messages",
        )


def check_settings(settings: RequestSettings, slots: int, vocab: int) -> None:
    """BadRequest for a setting that no answer can have; written so that nan fails too."""

    def demand(name: str, holds: bool, wanted: str):
        if not holds:
            value = getattr(settings, name)
            raise BadRequest(f"{name} is {str(value)[:50]}; wanted {wanted}", name)

    s = settings
    demand("max_tokens", s.max_tokens >= 1, "at least 1, as 1024")
    is_finite = 0 <= s.temperature < math.inf
    demand("temperature", is_finite, "a number from 0 (greedy) on, as 0.7")
    demand("top_p", 0 < s.top_p <= 1, "more than 0 and at most 1, which keeps all")
    demand("top_k", s.top_k >= 0, "a whole number; 0 keeps all tokens")
    is_penalty = 0 < s.repetition_penalty < math.inf
    demand("repetition_penalty", is_penalty, "a number above 0; 1 is off")
    demand("thinking_tokens", s.thinking_tokens >= 0, "a whole number; 0 is no budget")
    demand("n", 1 <= s.n <= slots, f"1 to {slots}, the slots of this server")
    demand("top_logprobs", 0 <= s.top_logprobs <= TOP, f"0 to {TOP}")
    demand("stop", all(s.stop), "strings that are not empty")
    is_known = all(0 <= i < vocab for i in s.stop_token_ids)
    demand("stop_token_ids", is_known, f"token ids below {vocab}")
    demand("bad_words", all(s.bad_words), "words that are not empty")


def slot_numbers(prepared: Prepared) -> dict[str, object]:
    """Returns the settings of a request as `programs.SlotChange` has them in one slot."""
    settings = prepared.request.settings
    is_greedy = settings.temperature < COLDEST
    # Larger than any vocabulary: all tokens.
    top_k = min(settings.top_k, NO_LIMIT)
    budget = min(settings.thinking_tokens, NO_LIMIT) or NO_LIMIT
    has_thought = prepared.request.thinking
    return {
        "seeds": (prepared.seed >> 32, prepared.seed & 0xFFFFFFFF),
        "limits": prepared.max_tokens,
        "tops": settings.top_logprobs,
        "temperature": 0.0 if is_greedy else min(settings.temperature, 1e30),
        "top_k": top_k,
        "top_p": max(settings.top_p, SMALLEST_TOP_P),
        "repetition_penalty": min(max(settings.repetition_penalty, 1e-30), 1e30),
        "thinking_tokens": budget if has_thought else NO_LIMIT,
        "banned_sequences": prepared.banned_sequences,
    }
