"""Records of any shape: a row, or a reason; never another error, and nothing is changed.

The names are those that the readers know, so that each value reaches the code behind a name.
"""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1v3_jax.data import fields, films, media, options, records, turns, unread
from r1v3_jax.types import REASONS

NAMES = [
    *media.IMAGE_FIELDS,
    *media.NAME_FIELDS,
    *media.NESTED,
    *options.LIST_FIELDS,
    *unread.THOUGHT_FIELDS,
    *unread.WEIGHT_FIELDS,
    *unread.LIST_WEIGHT_FIELDS,
    *"A B C option_a option_b image_1 image_2 img_1 video video_id reward_model".split(),
    *"videos frames path clip start fps nframes video_basename task_goal".split(),
    *"negative_answers current_observation_basename".split(),
    *"prompt messages conversations completion question problem answer".split(),
    *"solution clean_answer before chain id qid source data_source verifier level".split(),
]
KEYS = [
    *turns.WEIGHT_KEYS,
    *media.CONTENT_KEYS,
    *media.NAMING_KEYS,
    *media.DESCRIBING_KEYS,
    *films.CONTENT_KEYS,
    *films.NAMING_KEYS,
    *films.ASKED,
    *films.PART_KEYS,
    *"frames role from content value text source label ground_truth A B".split(),
]
TEXTS = [
    *["", "user", "assistant", "system", "human", "gpt", "text", "image", "image_url"],
    *["a.mp4", "video", "<video>", "<video>\n<video>", '["a.mp4", "b.mp4"]'],
    *["a.png", "cat", "<image>", "<image 1>", "<image 2>", "\\boxed{5}", "5", "B"],
    *["['a', 'b']", '["a.png"]', '{"A": "x", "B": "y"}', "A. cat\nB. dog", "[", "{"],
    *["data:image/png;base64,AAAA", "why</think>\\boxed{5}", "\0", "\ud800", "x" * 300],
    "iVBORw0KGgo" + "A" * 200,
]
leaves = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from([None, True, False, 0, 1, -1, 2**70, 1.5, float("nan"), 1e999]),
    st.sampled_from([b"", b"x", b"\x89PNG" + bytes(99)]),
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS + NAMES), inner, max_size=3)
    ),
    max_leaves=8,
)
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": values},
    optional={key: values for key in ("weight", "thinking", "value", "images")},
)
record = st.dictionaries(st.sampled_from(NAMES), values, max_size=6) | st.builds(
    lambda name, turns, more: more | {name: turns},
    st.sampled_from(["prompt", "messages", "conversations", "before"]),
    st.lists(turn, max_size=4),
    st.dictionaries(st.sampled_from(NAMES), values, max_size=3),
)


@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(record=record, question=st.sampled_from(TEXTS))
def test_a_record_of_any_shape_is_a_row_or_is_refused(record, question):
    for sample in (record, {"question": question, "answer": "B", **record}):
        before = repr(sample)
        try:
            row = records.canonical(sample)
            records.check(row)
        except fields.InvalidRecord as error:
            reason, detail = error.args
            assert reason in REASONS and len(detail) < 1000
        else:
            # As JSON it is the same row: what is converted is what is trained on.
            assert records.canonical(json.loads(records.dumps(row))) == row
        assert repr(sample) == before
