"""Reads the fields of a chat completion: what is asked of the engine, and how it is answered.

A field is read, refused by its name, or ignored and counted; docs/serving.md has the table. Null is
a field that is not there.
"""

import dataclasses
import math

from r1v3_jax.engine.requests import Request, RequestSettings
from r1v3_jax.serve.json_body import Body
from r1v3_jax.serve.messages import Placement, read_conversation
from r1v3_jax.serve.problems import Problem, bad, shown

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_BANNED = 64
MAX_TOP_LOGPROBS = 20
# Fields that would change the answer and that this program does not have. They are refused unless
# they hold what they mean when they are absent.
REFUSED = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "audio": (),
    "modalities": (["text"],),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "allowed_token_ids": ([],),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "echo": (False,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "skip_special_tokens": (True,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "prompt_logprobs": (0,),
    "web_search_options": (),
    "chat_template": (),
    "documents": ([],),
}
# Each model has names of its own for it: Qwen's, and that of DeepSeek and Granite.
THINKING = ("enable_thinking", "thinking")
READ = {
    "messages",
    "model",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "n",
    "stop",
    "stop_token_ids",
    "bad_words",
    "thinking_token_budget",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "chat_template_kwargs",
    "include_reasoning",
    "separate_reasoning",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the engine has room for, and what is asked where a request does not say."""

    max_tokens: int  # of an answer
    slots: int
    queue: int  # requests that may wait
    vocab_size: int
    thinking: bool = True
    split_thinking: bool = False
    placement: Placement = "front"


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """A request as it is asked of the engine, and how its answer is to look."""

    request: Request
    stream: bool
    include_usage: bool  # at the end of a stream
    logprobs: bool
    split: bool  # thoughts apart from the answer
    show_thoughts: bool  # where they are apart
    unknown: tuple[str, ...]  # names of fields that were ignored


def read_request(body: Body, limits: Limits) -> ChatRequest:
    """Returns a request. Problem names the first field that cannot be honoured."""
    fields = {name: value for name, value in body.fields.items() if value is not None}
    for name, neutral in REFUSED.items():
        if name in fields and fields[name] not in neutral:
            raise bad(
                name,
                f"got {shown(fields[name])}; this server does not have it, leave it out",
                "unsupported_parameter",
            )
    conversation = read_conversation(body, limits.placement)
    thinking = _template_settings(fields, limits)
    split, show_thoughts = _splitting(fields, limits)
    stream = _bool(fields, "stream", False)
    options = _options(fields, stream)
    settings = read_settings(fields, limits, thinking)
    unknown = [name for name in fields if name not in READ and name not in REFUSED]
    # A setting that is spelt wrongly is one of them.
    template = fields.get("chat_template_kwargs", {})
    unknown += [f"chat_template_kwargs.{x}" for x in template if x not in THINKING]
    unknown += [f"stream_options.{x}" for x in options if x != "include_usage"]
    request = Request(
        turns=conversation.turns,
        images=conversation.images,
        settings=settings,
        thinking=thinking,
        max_tiles=conversation.max_tiles,
    )
    return ChatRequest(
        request=request,
        stream=stream,
        include_usage=_bool(options, "include_usage", False, "stream_options."),
        logprobs=_bool(fields, "logprobs", False),
        split=split,
        show_thoughts=show_thoughts,
        unknown=(*unknown, *conversation.unknown),
    )


def read_settings(fields: dict, limits: Limits, thinking: bool) -> RequestSettings:
    """Returns how the answer is sampled."""
    # More tokens than there is room for are no mistake: VLMEvalKit asks for 32,768 of any model.
    newer = _int(fields, "max_completion_tokens", limits.max_tokens, 1, None)
    older = _int(fields, "max_tokens", limits.max_tokens, 1, None)
    if {"max_tokens", "max_completion_tokens"} <= fields.keys() and newer != older:
        raise bad(
            "max_tokens", f"got {older}, and max_completion_tokens {newer}; give one"
        )
    top_logprobs = _int(fields, "top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top_logprobs and not _bool(fields, "logprobs", False):
        raise bad(
            "top_logprobs", f"got {top_logprobs} without logprobs; add logprobs: true"
        )
    # -1 is vLLM's word for all.
    top_k = _int(fields, "top_k", 0, -1, None)
    budget = _int(fields, "thinking_token_budget", 0, 1, None)
    return RequestSettings(
        max_tokens=min(newer, older, limits.max_tokens),
        temperature=_float(fields, "temperature", 1.0, 0.0, 2.0),
        top_p=_float(fields, "top_p", 1.0, 0.0, 1.0, above=True),
        top_k=min(max(top_k, 0), limits.vocab_size),
        repetition_penalty=_float(fields, "repetition_penalty", 1.0, 0.01, 100.0),
        thinking_tokens=min(budget, limits.max_tokens) if thinking else 0,
        seed=_int(fields, "seed", None, -(2**63), 2**63 - 1),
        n=_int(fields, "n", 1, 1, limits.slots),
        stop=_texts(fields, "stop", MAX_STOPS, or_one=True),
        stop_token_ids=_token_ids(fields, "stop_token_ids", limits.vocab_size),
        bad_words=_texts(fields, "bad_words", MAX_BANNED),
        top_logprobs=top_logprobs,
    )


def check_model(fields: dict, names: tuple[str, ...]) -> None:
    """Problem, status 404, if a request asks for a model that is not served."""
    model = fields.get("model")
    if model is None:
        return
    if not isinstance(model, str):
        raise bad("model", f"got {shown(model)}, wanted {names[0]!r}")
    if model not in names:
        raise Problem(
            404,
            f"model: there is no {shown(model)} here; there is {', '.join(names)}",
            param="model",
            code="model_not_found",
        )


# -------------------------------------------------------------------------------------------------
# groups of fields


def _template_settings(fields: dict, limits: Limits) -> bool:
    """Returns whether the answer begins with thoughts."""
    template = fields.get("chat_template_kwargs", {})
    name = "chat_template_kwargs"
    if not isinstance(template, dict):
        raise bad(
            name,
            f"got {shown(template)}, wanted an object as {{'enable_thinking': false}}",
        )
    template = {key: value for key, value in template.items() if value is not None}
    wanted = {
        _bool(template, key, limits.thinking, f"{name}.")
        for key in THINKING
        if key in template
    }
    if len(wanted) > 1:
        raise bad(name, "enable_thinking and thinking say different things; give one")
    return wanted.pop() if wanted else limits.thinking


def _splitting(fields: dict, limits: Limits) -> tuple[bool, bool]:
    """Returns whether thoughts are apart from the answer, and whether they are sent at all.

    separate_reasoning is SGLang's field and includes them; include_reasoning is vLLM's, and leaves
    them out if it is false.
    """
    separate = fields.get("separate_reasoning")
    include = fields.get("include_reasoning")
    for name in ("separate_reasoning", "include_reasoning"):
        _bool(fields, name, False)
    if separate is False and include is not None:
        raise bad(
            "separate_reasoning",
            "got false, and include_reasoning too; give one of them",
        )
    asked = separate if separate is not None else include is not None
    split = limits.split_thinking if separate is None and include is None else asked
    return split, include is not False


def _options(fields: dict, stream: bool) -> dict:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise bad(
            "stream_options", f"got {shown(options)}, wanted {{'include_usage': true}}"
        )
    if options and not stream:
        raise bad("stream_options", "given without stream; add stream: true")
    return {key: value for key, value in options.items() if value is not None}


# -------------------------------------------------------------------------------------------------
# values


def _bool(fields: dict, name: str, default: bool, prefix: str = "") -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise bad(prefix + name, f"got {shown(value)}, wanted true or false")
    return value


def _int(fields: dict, name: str, default, low: int, high: int | None):
    """Returns a whole number from `low` to `high`, or the default."""
    if name not in fields:
        return default
    value = fields[name]
    # 5.0 is how JavaScript and pandas write 5.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    is_good = type(value) is int and value >= low and (high is None or value <= high)
    if not is_good:
        wanted = f"{low} or more" if high is None else f"{low} to {high}"
        raise bad(name, f"got {shown(value)}, wanted a whole number, {wanted}")
    return value


def _float(
    fields: dict, name: str, default: float, low: float, high: float, above=False
) -> float:
    """Returns a number from `low` to `high`; with `above` low itself is none."""
    value = fields.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_good = is_number and math.isfinite(value) and low <= value <= high
    if not is_good or (above and value == low):
        wanted = f"above {low:g}, at most {high:g}" if above else f"{low:g} to {high:g}"
        raise bad(name, f"got {shown(value)}, wanted a number, {wanted}")
    return float(value)


def _texts(
    fields: dict, name: str, most: int, *, or_one: bool = False
) -> tuple[str, ...]:
    """Returns a list of texts, none of them empty or long."""
    value = fields.get(name, [])
    if or_one and isinstance(value, str):
        value = [value]
    is_list = isinstance(value, list) and all(isinstance(text, str) for text in value)
    if not is_list or len(value) > most:
        given = f"{len(value)} of them" if is_list else shown(value)
        raise bad(name, f"got {given}, wanted at most {most} texts")
    for text in value:
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            wanted = f"texts of 1 to {MAX_STOP_CHARACTERS} characters"
            raise bad(name, f"got one of {len(text)} characters, wanted {wanted}")
    return tuple(value)


def _token_ids(fields: dict, name: str, vocab_size: int) -> tuple[int, ...]:
    value = fields.get(name, [])
    is_list = isinstance(value, list) and len(value) <= MAX_BANNED
    if not is_list or not all(type(i) is int and 0 <= i < vocab_size for i in value):
        raise bad(
            name,
            f"got {shown(value)}, wanted at most {MAX_BANNED} tokens, 0 to {vocab_size - 1}",
        )
    return tuple(value)
