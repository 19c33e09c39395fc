"""A row of each schema, and the fields that its canonical row has."""

from film_rows import FILM_RECORDS, V_TRIUNE
from rows_for_tests import digit

A = digit(0)
B = digit(1)
BOX = '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'
ASK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<image>Which?"},
]

# name: (schema, record, the fields of its canonical row that differ from an empty one)
RECORDS = {
    **FILM_RECORDS,
    "EasyR1": (
        "easyr1",
        {
            "images": [{"bytes": A, "path": None}],
            "problem": "<image>Which?\n(A) 0\n(B) 1",
            "answer": "A",
        },
        {"images": [A], "question": "<image>Which?\n(A) 0\n(B) 1", "answer": "A"},
    ),
    "EasyR1, paths and a solution": (
        "easyr1",
        {
            "images": ["a.png", {"bytes": None, "path": "b.png"}],
            "problem": "<image><image> 2?",
            "solution": "<think>Two.</think>\n<answer>2</answer>",
            "difficulty": 3,
        },
        {
            "images": ["a.png", "b.png"],
            "question": "<image><image> 2?",
            "answer": "2",
            "metadata": {"difficulty": 3},
        },
    ),
    "WeThink, multiple choice": (
        "wethink",
        {
            "problem": "Which?\n(A) 0\n(B) 1",
            "answer": "B",
            "category": "Multiple Choice",
            "abilities": ["reading", "counting"],
            "refined_cot": "<think>It is one.</think>\n<answer>B</answer>",
            "image_path": "coco/a.png",
            "reward": "rule-based",
        },
        {
            "question": "Which?\n(A) 0\n(B) 1",
            "answer": "B",
            "images": ["coco/a.png"],
            "chain": "It is one.\n</think>\n\n\\boxed{B}",
            "verifier": "choice",
            "metadata": {
                "category": "Multiple Choice",
                "abilities": "reading, counting",
                "reward": "rule-based",
            },
        },
    ),
    "WeThink, a blank": (
        "wethink",
        {
            "problem": "The digit is ___.",
            "answer": "<answer>1</answer>",
            "category": "fill-in-the-blank",
            "abilities": "reading",
            "refined_cot": "One stroke.<answer>one</answer>",
            "image_path": "a.png",
            "reward": "rule",
        },
        {
            "question": "The digit is ___.",
            "answer": "1",
            "images": ["a.png"],
            "chain": "One stroke.\n</think>\n\n\\boxed{1}",
            "verifier": "mathematics",
            "metadata": {
                "category": "fill-in-the-blank",
                "abilities": "reading",
                "reward": "rule",
            },
        },
    ),
    "WeThink, a description": (
        "wethink",
        {
            "problem": "Describe it.",
            "answer": "A long stroke, drawn from the top to the bottom, stands for one.",
            "category": "descriptive",
            "abilities": None,
            "refined_cot": None,
            "image_path": "a.png",
            "reward": "model",
        },
        {
            "question": "Describe it.",
            "answer": "A long stroke, drawn from the top to the bottom, stands for one.",
            "images": ["a.png"],
            "verifier": "model",
            "metadata": {"category": "descriptive", "reward": "model"},
        },
    ),
    "verl": (
        "verl",
        {
            "data_source": "geometry3k",
            "prompt": ASK,
            "images": [{"bytes": A, "path": "x"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "2\\sqrt{3}"},
            "extra_info": {
                "split": "train",
                "index": 7,
                "answer": "long",
                "question": "long",
            },
        },
        {
            "source": "geometry3k",
            "before": [ASK[0]],
            "question": "<image>Which?",
            "images": [A],
            "answer": "2\\sqrt{3}",
            "metadata": {"ability": "math", "split": "train", "index": 7},
        },
    ),
    "V-Triune, mathematics": (
        "vtriune",
        {
            "data_source": "mm_math",
            "prompt": ASK[1:],
            "images": [{"bytes": A, "path": None}],
            "ability": "math",
            "extra_info": {"id": "m-1", "image_path": "a.png"},
            "reward_model": {"answer": "3", "ground_truth": "\\boxed{3}", **V_TRIUNE},
        },
        {
            "id": "m-1",
            "source": "mm_math",
            "question": "<image>Which?",
            "images": [A],
            "answer": "3",
            "verifier": "mathematics",
            "accuracy_weight": 0.9,
            "metadata": {"ability": "math"},
        },
    ),
    "V-Triune, detection": (
        "vtriune",
        {
            "data_source": "coco",
            "prompt": ASK[1:],
            "images": [{"bytes": B, "path": None}],
            "reward_model": {
                **V_TRIUNE,
                "ground_truth": f"<answer>\n{BOX}\n</answer>".replace('"', "'"),
                "verifier": "detection",
                "format_ratio": 1.0,
                "accuracy_ratio": 1.0,
            },
        },
        {
            "source": "coco",
            "question": "<image>Which?",
            "images": [B],
            "answer": BOX.replace('"', "'"),
            "verifier": "overlap iou=dynamic completeness=0.0",
            "accuracy_weight": 0.5,
        },
    ),
    "V-Triune, detection by degrees, in thousandths": (
        "vtriune",
        {
            "data_source": "coco",
            "prompt": ASK[1:],
            "images": [{"bytes": B, "path": None}],
            "reward_model": {
                "ground_truth": BOX,
                "verifier": "detection",
                "format_ratio": None,
                "verifier_parm": {
                    "det_verifier_normalized": True,
                    "det_reward_ratio": {
                        "iou_max_label_first": 1.0,
                        "iou_max_iou_first": 0.0,
                        "iou_completeness": 0.3,
                        "map": 0.0,
                        "map50": None,
                    },
                },
            },
        },
        {
            "source": "coco",
            "question": "<image>Which?",
            "images": [B],
            "answer": BOX,
            "verifier": "overlap iou=dynamic completeness=0.3",
            "metadata": {"det_verifier_normalized": True},
        },
    ),
    "TRL, parts": (
        "trl",
        {
            "prompt": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image"},
                        {"type": "image"},
                        {"type": "text", "text": "Sum?"},
                    ],
                }
            ],
            "images": [A, B],
            "solution": 1,
        },
        {"question": "<image><image>Sum?", "images": [A, B], "answer": "1"},
    ),
    "TRL, a text": (
        "trl",
        {"prompt": "Which?", "image": {"bytes": A, "path": "a.png"}, "answer": "0"},
        {"question": "Which?", "images": [A], "answer": "0"},
    ),
    "TRL, messages": (
        "trl",
        {
            "messages": [
                *ASK,
                {"role": "assistant", "content": "It.\n</think>\n\\boxed{0}"},
            ],
            "images": ["a.png"],
            "id": 5,
        },
        {
            "id": "5",
            "before": [ASK[0]],
            "question": "<image>Which?",
            "images": ["a.png"],
            "chain": "It.\n</think>\n\\boxed{0}",
            "answer": "0",
        },
    ),
    "TRL, prompt and completion": (
        "trl",
        {
            "prompt": ASK[1:],
            "completion": [{"role": "assistant", "content": "Zero."}],
            "images": [A],
        },
        {"question": "<image>Which?", "images": [A], "chain": "Zero."},
    ),
    "LLaVA": (
        "llava",
        {
            "id": 12,
            "image": "coco/a.png",
            "width": 32,
            "conversations": [
                {"from": "human", "value": "What is it?"},
                {"from": "gpt", "value": "A digit."},
                {"from": "human", "value": "Which?"},
                {"from": "gpt", "value": "Zero, <image>."},
            ],
        },
        {
            "id": "12",
            "images": ["coco/a.png"],
            "before": [
                {"role": "user", "content": "<image>\nWhat is it?"},
                {"role": "assistant", "content": "A digit."},
            ],
            "question": "Which?",
            "chain": "Zero, <image>.",
            "metadata": {"width": 32},
        },
    ),
    "InternVL, several images": (
        "llava",
        {
            "image": ["a.png", "b.png"],
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "A <image>\nB <image>\nEqual?"},
                {"from": "gpt", "value": "No."},
            ],
            "answer": 0,
        },
        {
            "images": ["a.png", "b.png"],
            "before": [{"role": "system", "content": "Be brief."}],
            "question": "A <image>\nB <image>\nEqual?",
            "chain": "No.",
            "answer": "0",
        },
    ),
    "knights and knaves": (
        "knights",
        {
            "quiz": "You meet Zoey and Ben. Zoey said that Ben is a knave.",
            "names": ["Zoey", "Ben"],
            "knight_knave": {"knight": "knight", "a_knight": "a knight"},
            "solution": [True, False],
            "solution_text": "Zoey is a knight and Ben is a knave.",
            "solution_text_format": "(1) Zoey is a knight\n(2) Ben is a knave",
            "cot_head": "Let's think step by step.",
            "statements": "(('lying', 1), ('telling-truth', 0))",
            "index": 31,
        },
        {
            "id": "31",
            "question": "You meet Zoey and Ben. Zoey said that Ben is a knave.",
            "answer": "(1) Zoey is a knight\n(2) Ben is a knave",
            "verifier": "knights",
            "metadata": {
                "solution_text": "Zoey is a knight and Ben is a knave.",
                "cot_head": "Let's think step by step.",
                "statements": "(('lying', 1), ('telling-truth', 0))",
            },
        },
    ),
    "knights and knaves, in Logic-RL's parquet": (
        "knights",
        {
            "quiz": "You meet Zoey. Zoey said that Zoey is a knight or Zoey is a knave.",
            "solution_text_format": "(1) Zoey is a knight",
            "data_source": "kk_logic",
            "prompt": [{"role": "user", "content": "<|im_start|>system\nYou are ..."}],
            "ability": "logic",
            "reward_model": {
                "style": "rule",
                "ground_truth": {
                    "solution_text_format": "(1) Zoey is a knight",
                    "statements": "(('or', ...),)",
                },
            },
            "extra_info": {"split": "train", "index": 0},
            "index": 31,
        },
        {
            "id": "31",
            "source": "kk_logic",
            "question": "You meet Zoey. Zoey said that Zoey is a knight or Zoey is a knave.",
            "answer": "(1) Zoey is a knight",
            "verifier": "knights",
            "metadata": {"ability": "logic"},
        },
    ),
    "MMK12": (
        "mmk12",
        {
            "id": "k-3",
            "question": "<image>Which?",
            "answer": "B",
            "subject": "math",
            "image": {"bytes": B, "path": None},
        },
        {
            "id": "k-3",
            "question": "<image>Which?",
            "answer": "B",
            "images": [B],
            "metadata": {"subject": "math"},
        },
    ),
    "ViRL39K": (
        "mmk12",
        {
            "question": "<image>Which?",
            "answer": "\\boxed{\\frac{1}{2}}",
            "image": ["images/a.png"],
            "category": "(GradeSchool) Geometric",
            "source": "Processed",
            "qid": "Processed-1",
            "PassRate_32BTrained": 0.75,
            "PassRate_7BUntrained": 0.125,
        },
        {
            "id": "Processed-1",
            "source": "Processed",
            "question": "<image>Which?",
            "answer": "\\frac{1}{2}",
            "images": ["images/a.png"],
            "metadata": {
                "category": "(GradeSchool) Geometric",
                "PassRate_32BTrained": 0.75,
                "PassRate_7BUntrained": 0.125,
            },
        },
    ),
    "ours": (
        "own",
        {
            "id": "q1",
            "question": "Which?",
            "answer": 3,
            "images": None,
            "chain": "Three.",
            "level": "hard",
            "verifier": "number absolute=1",
            "accuracy_weight": 1,
            "pass_rate": 0.5,
            "metadata": {"subject": "digits"},
        },
        {
            "id": "q1",
            "question": "Which?",
            "answer": "3",
            "chain": "Three.",
            "level": "hard",
            "verifier": "number absolute=1",
            "accuracy_weight": 1.0,
            "metadata": {"pass_rate": 0.5, "subject": "digits"},
        },
    ),
    "InternVL's MPO": (
        "mmk12",
        {
            "image": "a.png",
            "question": "<image>\nWhich?",
            "chosen": "Five.\n</think>\n5",
            "rejected": "Six.\n</think>\n6",
        },
        {
            "images": ["a.png"],
            "question": "<image>\nWhich?",
            "chosen": "Five.\n</think>\n5",
            "rejected": "Six.\n</think>\n6",
        },
    ),
    "TRL, preferences": (
        "trl",
        {
            "prompt": ASK,
            "images": [A],
            "chosen": [
                {"role": "assistant", "reasoning_content": "Five.", "content": "5"}
            ],
            "rejected": [{"role": "assistant", "content": "6"}],
            "score_chosen": 0.5,
        },
        {
            "images": [A],
            "before": ASK[:1],
            "question": "<image>Which?",
            "chosen": "Five.\n</think>\n\n5",
            "rejected": "6",
            "metadata": {"score_chosen": 0.5},
        },
    ),
    "TRL, preferences with the prompt repeated": (
        "trl",
        {
            "prompt": "Which?",
            "chosen": [
                {"role": "user", "content": "Which?"},
                {"role": "assistant", "content": "5"},
            ],
            "rejected": [
                {"role": "user", "content": "Which?"},
                {"role": "assistant", "content": "6"},
            ],
        },
        {"question": "Which?", "chosen": "5", "rejected": "6"},
    ),
    "verl, preferences": (
        "verl",
        {
            "data_source": "geometry3k",
            "prompt": ASK[1:],
            "images": [A],
            "reward_model": {"ground_truth": "5"},
            "chosen": "5",
            "rejected": "6",
        },
        {
            "source": "geometry3k",
            "images": [A],
            "question": "<image>Which?",
            "answer": "5",
            "chosen": "5",
            "rejected": "6",
        },
    ),
    "a number called chosen is a fact": (
        "own",
        {"question": "Which?", "answer": "A", "chosen": 3},
        {"question": "Which?", "answer": "A", "metadata": {"chosen": 3}},
    ),
}
