"""What a draft head is worth: a pass of several tokens beside one of a single token.

Guesses do not change what is sampled, only in how many passes: with 1.5 tokens a pass there are two
thirds of them. How many a pass yields is measured in a run (`drafts/tokens_a_pass`), never here.
"""

from r1v3_jax.config import Run
from r1v3_jax.tpu.compiled import Compiled
from r1v3_jax.tpu.lengths import Lengths, drawn
from r1v3_jax.tpu.uneven import decode_of

# Tokens a pass for which a step is priced, up to those that a pass reads.
YIELDS = (1.25, 1.5, 1.8, 2.0, 2.5, 3.0)


def guessed_step(
    config: Run,
    name: str,
    step: dict,
    programs: dict[str, Compiled],
    lengths: Lengths | None,
) -> dict:
    """Returns the figures of a stage's step with guesses, and a sentence about them.

    step: its figures without guesses, but with what it takes to teach the head. programs: by label.
    lengths: of samples; None: all are full.
    """
    stage = config.stages[name]
    tokens = stage.draft.tokens
    plain = programs["decode"]
    guessed = programs["drafts_decode"]
    # Seconds of decoding: without guesses, and with guesses of which none is kept.
    if lengths is None:
        seconds = plain.seconds
        none_kept = guessed.seconds
    else:
        steps = drawn(stage, lengths)
        seconds = decode_of(config, name, plain, steps)
        none_kept = decode_of(config, name, guessed, steps)
    rest = step["step_seconds"] - step["seconds"]["decode"]
    priced = {
        tokens_a_pass: rest + none_kept / tokens_a_pass
        for tokens_a_pass in YIELDS
        if tokens_a_pass <= tokens
    }
    pays_from = none_kept / seconds
    about = "every row full" if lengths is None else lengths.name
    ms = [program.estimate.dynamic_loop_seconds * 1e3 for program in (plain, guessed)]
    prices = ", ".join(f"{price:.1f} s at {n:g}" for n, price in priced.items())
    sentence = (
        f"{name}: a pass of {tokens} tokens takes {ms[1]:.2f} ms with a full cache and one of a "
        f"single token {ms[0]:.2f}, by estimate; guesses pay from {pays_from:.2f} tokens a pass "
        f"({about}), and a step takes {prices}"
    )
    return {
        "tokens": tokens,
        "pays_from": pays_from,
        "step_seconds": priced,
        "sentence": sentence,
    }
