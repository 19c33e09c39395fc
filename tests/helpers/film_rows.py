"""Rows about films in other people's schemas, as `schema_rows` has them, and small films."""

import io

import av
import numpy as np


def film(
    greys=range(0, 200, 50),
    *,
    size=(64, 48),
    rate=10,
    codec="ffv1",
    pixels="bgr0",
    format="matroska",
    **options,
) -> bytes:
    """Returns a film whose frame k is as grey as greys[k], lossless unless the codec is not.

    options: of the encoder.
    """
    width, height = size
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width = width
        stream.height = height
        stream.pix_fmt = pixels
        for grey in greys:
            picture = np.full((height, width, 3), grey, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


FILM = film()
V_TRIUNE = {
    "verifier": "mathverify",
    "verifier_parm": {"det_verifier_normalized": None},
    "format_ratio": 0.1,
    "accuracy_ratio": 0.9,
}

# name: (schema, record, the fields of its canonical row that differ from an empty one)
FILM_RECORDS = {
    "verl, a film": (
        "verl",
        {
            "data_source": "clips",
            "prompt": [{"role": "user", "content": "<video>Which?"}],
            "videos": [{"type": "video", "video": "a.mp4", "fps": 2, "max_frames": 16}],
            "reward_model": {"style": "rule", "ground_truth": "2"},
        },
        {
            "source": "clips",
            "question": "<video>Which?",
            "videos": [{"video": "a.mp4", "fps": 2.0, "max_frames": 16}],
            "answer": "2",
        },
    ),
    "V-Triune, a film": (
        "vtriune",
        {
            "prompt": [{"role": "user", "content": "<video>Which?"}],
            "videos": [{"bytes": FILM, "path": "a.mp4"}],
            "reward_model": {"ground_truth": "3", **V_TRIUNE},
        },
        {
            "question": "<video>Which?",
            "videos": [{"video": FILM}],
            "answer": "3",
            "verifier": "mathematics",
            "accuracy_weight": 0.9,
        },
    ),
    "EasyR1, a film of frames": (
        "easyr1",
        {"problem": "<video>?", "videos": [["1.png", "2.png"]], "answer": "A"},
        {
            "question": "<video>?",
            "videos": [{"frames": ["1.png", "2.png"]}],
            "answer": "A",
        },
    ),
    "ms-swift, a film and an image": (
        "trl",
        {
            "messages": [
                {"role": "user", "content": "<video><image>Is it the end?"},
                {"role": "assistant", "content": "Yes."},
            ],
            "videos": ["a.mp4"],
            "images": ["a.png"],
        },
        {
            "question": "<video><image>Is it the end?",
            "videos": [{"video": "a.mp4"}],
            "images": ["a.png"],
            "chain": "Yes.",
        },
    ),
    "TRL, a film in a part": (
        "trl",
        {
            "prompt": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "video": "a.mp4", "nframes": 4},
                        {"type": "text", "text": "Which?"},
                    ],
                }
            ],
            "answer": "A",
        },
        {
            "question": "<video>Which?",
            "videos": [{"video": "a.mp4", "num_frames": 4}],
            "answer": "A",
        },
    ),
    "LLaVA-Video, whose marker is an image's": (
        "llava",
        {
            "id": "v-1",
            "data_source": "academic",
            "video": "a/b.mp4",
            "conversations": [
                {"from": "human", "value": "<image>\nWhich?"},
                {"from": "gpt", "value": "This."},
            ],
        },
        {
            "id": "v-1",
            "videos": [{"video": "a/b.mp4"}],
            "question": "<video>\nWhich?",
            "chain": "This.",
            "metadata": {"data_source": "academic"},
        },
    ),
    "InternVL, a part of a film": (
        "llava",
        {
            "video": "a.mp4",
            "clip": [2, 5.5],
            "conversations": [{"from": "human", "value": "<video>\nWhich?"}],
            "answer": "B",
        },
        {
            "videos": [{"video": "a.mp4", "start": 2.0, "end": 5.5}],
            "question": "<video>\nWhich?",
            "answer": "B",
        },
    ),
    "SEED-Bench-R1, to train on": (
        "egoplan",
        {
            "sample_id": 3,
            "task_goal": "make tea",
            "video_source": "EpicKitchens",
            "video_basename": "P01.mp4",
            "current_observation_basename": "P01.png",
            "question": "What next to make tea?",
            "answer": "boil water",
            "negative_answers": ["cut bread", "wash cup", "close tap", "open fridge"],
            "task_progress_metadata": [{"narration_text": "take kettle"}],
        },
        {
            "id": "3",
            "source": "EpicKitchens",
            # Three of the four others, and the order, are drawn by the row's name.
            "question": "What next to make tea?\n(A) close tap\n(B) open fridge\n(C) boil water"
            "\n(D) wash cup",
            "answer": "C",
            "videos": [{"video": "videos/EpicKitchens/P01.mp4"}],
            "images": ["images/EpicKitchens/P01.png"],
            "metadata": {"task_goal": "make tea"},
        },
    ),
    "SEED-Bench-R1, to measure; nothing was done yet": (
        "egoplan",
        {
            "sample_id": 4,
            "task_goal": "make tea",
            "video_source": "Ego4D",
            "video_basename": "b.mp4",
            "current_observation_basename": "b.png",
            "question": "What next?",
            "answer": "wash cup",
            "choice_a": "cut bread",
            "choice_b": "wash cup",
            "choice_c": "close tap",
            "choice_d": "boil water",
            "golden_choice_idx": "B",
            "task_progress_metadata": [],
        },
        {
            "id": "4",
            "source": "Ego4D",
            "question": "What next?\n(A) cut bread\n(B) wash cup\n(C) close tap\n(D) boil water",
            "answer": "B",
            "images": ["images/Ego4D/b.png"],
            "metadata": {"task_goal": "make tea", "golden_choice_idx": "B"},
        },
    ),
    "EgoPlan, a film whose last frame is the view": (
        "egoplan",
        {
            "task_goal": "make tea",
            "video": "a.mp4",
            "question": "What next?",
            "answer": "boil water",
            "negative_answers": ["cut bread", "wash cup", "close tap"],
        },
        {
            "question": "What next?\n(A) close tap\n(B) cut bread\n(C) wash cup\n(D) boil water",
            "answer": "D",
            "videos": [{"video": "a.mp4"}, {"video": "a.mp4", "last": True}],
            "metadata": {"task_goal": "make tea"},
        },
    ),
}
