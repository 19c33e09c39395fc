r"""Multiple choice: which letters a text chooses, in any order, whatever text follows a letter.

gold   right                                           wrong
B      b  (B)  **B**  B. 7 cm  25 (B)                  A  AB  B or C  B. 7 C. 8  7 cm
B      option B is correct  B选项  the answer is B      option B is incorrect  not B
AC     A, C  (A)(C)  \{A, C\}  A \& C  CA              A  A or C
A      A. point B moves  A. 5 V                        A. wrong, so D  A. 5 (could also be B)
C      C. Both A and B  C. A and B only                C. A and B (which is A, B and C)

1. A text of nothing but letters and words that point at them chooses all the letters.
2. A letter with a mark behind it may be followed by its option's text, which must not choose once
   more. Another letter in that text chooses if it stands at the start, behind punctuation, or
   behind a word that joins or chooses. Behind a noun or a number it belongs to the text, and so do
   letters with "both", "neither", "all of" or "only": the option is about other options.
3. A letter in brackets may follow its option's text.
"""

import functools
import re

from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, normalise

# A command, a word, digits, or one sign. A Chinese character is a token of its own.
_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z]+(?:'[a-z]+)?|[0-9]+|\S")

# 1. Words and signs

# They point at a letter: the correct answer is B. "not" is none of them.
_POINTING = frozenset(
    """the my our we i'd i'll only both so thus hence therefore clearly it it's is are be should
    must choose pick select final correct right true best ans answer answers letter letters option
    options choice choices
    正 确 最 终 答 案 选 项 择 应 该 故 因 此 所 以 是 为 的 对 都 均 : . ! ✓ ✔""".split()
)
_OPTION_WORDS = frozenset("option choice answer 选 项 案".split())
_JOINING = frozenset([",", ";", "&", "+", "and", "和", "与", "及"])
_BRACKETS = frozenset('()[]"“”')
_AROUND = _POINTING | _BRACKETS | {",", ";"}
_BETWEEN = _OPTION_WORDS | _JOINING | _BRACKETS | {"."}
_OPENING = frozenset("([")
_CLOSING = frozenset(")]")

# A letter behind one of them is chosen. Behind any other word it belongs to that word: point B.
_CHOOSING = (_POINTING - {"the", "my", "our"}) | frozenset(
    """then but while although though however maybe perhaps possibly probably likely or and not nor
    else even still either neither rather than actually also no yes wait instead take say mean
    prefer guess think
    was were seems i'd that's to versus vs wrong incorrect false because since if unless except
    alternatively otherwise with , ; ? / & | ( [ — → ⇒ " “ … 或 和 与 及 即 除 非 不 而 但 且 此
    \\to \\rightarrow \\Rightarrow \\implies \\therefore \\lor \\vee \\land \\wedge \\ne
    \\neq # @ \\ldots \\dots""".split()
)
# A letter in front of one of them is a number or a set: A + B = 5
_FORMULA = frozenset(
    "+ = < > ^ _ ' | \\cup \\cap \\times \\cdot \\perp \\parallel".split()
)
# Behind these an "A" at the start is a letter. "A triangle" begins with an article.
_VERBS = frozenset(
    """is are was and or but seems looks fits can could may might would should instead too also
    because if works""".split()
)
_QUANTIFIERS = frozenset(
    "both either neither all none any two only options statements choices".split()
)
_QUANTIFIERS_BEHIND = frozenset("only alone both are 都 均".split())
_OF_OPTIONS = frozenset("of options statements choices".split())
_OTHERS_JOINING = _JOINING | {"or", "nor", "(", ")"}
_LED_JOINING = _OTHERS_JOINING | {".", "to"}
_REASONING = frozenset("because since which as".split())
_ARROWS = frozenset(["→", "⇒", r"\to", r"\rightarrow", r"\Rightarrow"])
# "is incorrect" and "cannot be right" judge a letter; "cannot be determined" is an option.
_JUDGING_VERBS = frozenset("is are was isn't aren't can can't cannot".split())
_JUDGING = frozenset("wrong incorrect false impossible correct right answer".split())
_STRUCK_OUT = frozenset(
    ["wrong", "incorrect", "rejected", "eliminated", "excluded", "ruled out"]
    + ["not correct", "not right", "not the answer"]
)


# 2. Reading


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def read(text: str) -> frozenset[str] | None:
    """Returns the letters that a text chooses, in capitals; None if it does not choose clearly."""
    if len(text) > MAX_ANSWER:
        return None
    tokens = _TOKEN.findall(_plain(text))
    # An option about options comes first: its letters alone would be a list of choices.
    label, behind = _split_label(tokens)
    if label and _about_options(behind, label):
        is_clear = not _chooses_again(_behind_options(behind), label)
        return frozenset(label.upper()) if is_clear else None
    # "I only" and "I and II" name statements.
    letters = None if behind[:1] == ["I"] else _pointed_at(tokens)
    if letters is not None:
        return letters
    if label:
        mark = tokens[tokens.index(label) + 1 :][:1]
        is_judged = _is_judged(behind) or (mark != ["."] and _is_struck_out(behind))
        is_clear = not is_judged and not _chooses_again(behind, label)
        return frozenset(label.upper()) if is_clear else None
    return _last_label(tokens)


def _plain(text: str) -> str:
    r"""Takes off Markdown and braces: `B` -> B;  **(B)** -> (B);  \{A, C\} -> A,C;  ~~A~~B -> B."""
    text = re.sub("~~.*?~~", " ", text, flags=re.DOTALL)  # struck out
    text = re.sub(r"(?<!\w)(__?)([^_]+)\1(?!\w)", r"\2", text.replace("*", ""))
    text = normalise(text.replace("`", "")).replace(r"\&", "&").replace("~", " ")
    text = re.sub(r"\\[{}]|\\checkmark(?![a-z])", "", text).strip(" .,;")
    text = re.sub(r"^(?:\{([^{}]*)\}|'([^']*)')$", r"\1\2", text)
    # The pronoun is no letter.
    return re.sub(r"\b[Ii] (?:would )?(?=(?:choose|pick|select)\b)", "", text)


def _pointed_at(tokens: list[str]) -> frozenset[str] | None:
    """Returns the letters of a text that holds letters and pointing words alone; else None.

    the answer is (B) -> B;    A, C and D -> A C D;    ACD -> A C D;    B or C -> None
    """
    # 1. One word of letters: ACD. Among other words it must be in capitals: "bad" is a word.
    runs = [token for token in tokens if _is_run(token, len(tokens) == 1)]
    letters = [token for token in tokens if _is_letter(token)]
    if bool(letters) == bool(runs):  # none at all, or an option's text: B. DNA
        return None
    # Words may stand around the letters, between them only what joins them.
    is_chosen = [token in runs + letters for token in tokens]
    first = is_chosen.index(True)
    end = len(tokens) - is_chosen[::-1].index(True)
    around = {token.lower() for token in tokens[:first] + tokens[end:]}
    between = {token.lower() for token in tokens[first:end]}
    between -= {token.lower() for token in runs + letters}
    if not around <= _AROUND or not between <= _BETWEEN:
        return None
    # 2. "A correct answer" begins with an article.
    if len(tokens) > 1 and tokens[0] in ("A", "a"):
        word = tokens[1].lower()
        if word.isascii() and word.isalpha() and word in _POINTING - _VERBS - {"only"}:
            return None
    # 3. "aB" and "AA" are no lists of choices.
    chosen = "".join(letters + runs)
    same_case = chosen.isupper() or chosen.islower()
    if not same_case or len(set(chosen)) != len(chosen):
        return None
    return frozenset(chosen.upper())


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isascii() and token.isalpha()


def _is_run(token: str, alone: bool) -> bool:
    is_word = len(token) > 1 and token.isascii() and token.isalpha()
    return is_word and (alone or (token.isupper() and len(token) <= 8))


def _split_label(tokens: list[str]) -> tuple[str, list[str]]:
    """Returns the letter that a text begins with, and the tokens behind it; "", [] if none.

    (B) 7 -> B, [7];    Option B: 7 -> B, [7];    B, 7 -> B, [7];    B moves -> "", []
    """
    start = 0
    while start < len(tokens) and tokens[start].lower() in _POINTING | {","}:
        start += 1
    tokens = tokens[start:]
    # 1. In brackets: (B) 7, (B). 7
    if len(tokens) > 3 and tokens[0] in _OPENING and tokens[2] in _CLOSING:
        rest = tokens[4:] if tokens[3] in (".", ":", ",") else tokens[3:]
        return (tokens[1], rest) if _is_letter(tokens[1]) else ("", [])
    if len(tokens) < 3 or not _is_letter(tokens[0]):
        return _split_number(tokens)
    # 2. With a mark: B. 7, B: Paris, B) 7
    if tokens[1] in (".", ":", ")"):
        return tokens[0], tokens[2:]
    # 3. Only in capitals. B, 7;  B - Paris;  B = 7;  B, since it is 7;  B (7 cm), but not the
    # formulas P(A) and C(5,2)
    if not tokens[0].isupper():
        return "", []
    if tokens[1].lower() in _REASONING:
        return tokens[0], tokens[1:]
    if tokens[1] in _ARROWS | {",", ";", "-", "—", "="}:
        is_text = _begins_a_text(tokens[2]) or (
            tokens[1] == "," and tokens[2] in _REASONING
        )
        return (tokens[0], tokens[2:]) if is_text else ("", [])
    if tokens[1] == "(" and "," not in tokens and not _is_letter(tokens[2]):
        return tokens[0], tokens[1:]
    return _split_number(tokens)


def _begins_a_text(token: str) -> bool:
    """Returns whether an option's text may begin so behind a comma: 7, \\frac, Paris, 等.

    "wrong" and 错 judge the letter before them.
    """
    if _is_letter(token):
        return False
    return (
        token[0] in "0123456789\\"
        or token.istitle()
        or "一" <= token <= "鿿"
        and token not in "错不误非否但"
    )


def _split_number(tokens: list[str]) -> tuple[str, list[str]]:
    """B 7 cm -> B, [7, cm];    A triangle -> "", []."""
    if len(tokens) < 2 or not _is_letter(tokens[0]) or not tokens[0].isupper():
        return "", []
    is_number = tokens[1].isdigit() or tokens[1].startswith("\\frac")
    return (tokens[0], tokens[1:]) if is_number else ("", [])


def _last_label(tokens: list[str]) -> frozenset[str] | None:
    """Reads a letter behind its text: 25 (B);  Paris, option B. None if there is none."""
    # 1. The letter
    if len(tokens) > 3 and tokens[-3] in _OPENING and tokens[-1] in _CLOSING:
        letter = tokens[-2]
        front = tokens[:-3]
        is_pointed_at = False
    else:
        letter = tokens[-1] if tokens else ""
        front = tokens[:-1]
        is_pointed_at = False
        while front and front[-1].lower() in _POINTING | {",", ";"}:
            is_pointed_at |= front.pop().lower() in _OPTION_WORDS
        if not is_pointed_at:
            return None
    if not _is_letter(letter) or not front:
        return None
    # 2. Its text: "not (B)" is none, and f(B) and \sin(B) are formulas. 25. (B) has a full stop.
    if front[-1] in _ARROWS | {".", ",", ";", ":"}:
        front = front[:-1]
    last = front[-1] if front else "not"
    is_formula = not is_pointed_at and (_is_letter(last) or last.startswith("\\"))
    if last == r"\circ":
        is_formula = False
    is_denied = last.lower() in _CHOOSING or front[-2:-1] == ["not"]
    if is_formula or is_denied or _chooses_again(front, letter):
        return None
    return frozenset(letter.upper())


# 3. The text of an option


def _is_judged(tokens: list[str]) -> bool:
    """Returns whether a sentence judges the letter before it: "is incorrect"."""
    words = {token.lower() for token in tokens}
    is_sentence = bool(tokens) and tokens[0].lower() in _JUDGING_VERBS
    return is_sentence and bool(words & _JUDGING)


def _is_struck_out(tokens: list[str]) -> bool:
    """Returns whether a letter is taken back: A (incorrect), A: wrong, (A) rejected.

    A capital begins an option's text, (B) False, and so does what follows a full stop: A. wrong.
    """
    text = " ".join(token for token in tokens if token not in _BRACKETS)
    is_bracketed = tokens[:1] == ["("]
    return text in _STRUCK_OUT or (is_bracketed and text in ("false", "impossible"))


def _about_options(tokens: list[str], label: str) -> bool:
    """Returns whether an option's text begins with two other options and how they are joined.

    Both A and B;    None of A, B and C;    A and B only
    """
    end = len(tokens) - len(_behind_options(tokens))
    letters = {token for token in tokens[:end] if _is_letter(token)}
    # "only A" and "A only" are whole texts.
    is_single = len(tokens) == end == 2 and "only" in map(str.lower, tokens)
    wanted = 1 if is_single else 2
    return label not in letters and len(letters) >= wanted


def _behind_options(tokens: list[str]) -> list[str]:
    """Returns what stands behind "both A and B", or all tokens if they begin otherwise."""
    start = 0
    has_quantifier = bool(tokens) and tokens[0].lower() in _QUANTIFIERS
    if has_quantifier:
        start = 1
        while start < len(tokens) and tokens[start].lower() in _OF_OPTIONS:
            start += 1
    end = start
    while end < len(tokens) and (
        (_is_letter(tokens[end]) and tokens[end].isupper())
        or tokens[end].lower() in _OTHERS_JOINING
    ):
        end += 1
    if has_quantifier:
        return tokens[end:]
    is_quantified = end < len(tokens) and tokens[end].lower() in _QUANTIFIERS_BEHIND
    return tokens[end + 1 :] if is_quantified else tokens


def _chooses_again(tokens: list[str], label: str) -> bool:
    """Returns whether an option's text chooses another letter than `label`."""
    return any(
        _is_letter(token)
        and token.upper() != label.upper()
        and _chooses(tokens, i, label)
        for i, token in enumerate(tokens)
    )


def _chooses(tokens: list[str], i: int, label: str) -> bool:
    """Returns whether the letter tokens[i] is chosen, and no part of an option's text."""
    before = tokens[i - 1].lower() if i else ""
    after = tokens[i + 1].lower() if i + 1 < len(tokens) else ""
    # 1. A small letter is a variable, unless the options have small letters.
    if tokens[i].islower() and label.isupper() and before not in _OPTION_WORDS:
        return False
    # 2. "A triangle" at the start, "I think" and "I and II".
    is_word = after.isascii() and after.isalpha() and len(after) > 1
    is_start = not i or before in (".", "(", '"')
    if tokens[i] in "Aa" and is_word and after not in _VERBS:
        if is_start or tokens[i] == "a":
            return False
    if tokens[i] in "Ii" and (is_word or not i):
        return False
    # 3. Letters with a leader: "points B, C and D" as B, "Washington D.C" as D.
    leader = _leader(tokens, i)
    if leader is not None:
        return _chooses(tokens, leader, label)
    # 4. A label: (B), B: 7, B) 7, B. 7. Not f(B), and not the bracket of (x, B).
    is_open = tokens[:i].count("(") > tokens[:i].count(")")
    if before in _OPENING and after in _CLOSING:
        function = tokens[i - 2] if i > 1 else ""
        return not _is_letter(function) and not re.match(r"\\[a-z]", function)
    if after == ":" or (after == ")" and not is_open):
        return True
    if after == "." and i + 2 < len(tokens) and not _is_letter(tokens[i + 2]):
        return True
    # 5. Behind a number, and judged: 5 B is correct. A noun in front is the judged one: point B.
    judgement = [token.lower() for token in tokens[i + 1 : i + 3]]
    if before.isdigit() and len(judgement) == 2:
        if judgement[0] in _JUDGING_VERBS and judgement[1] in _JUDGING:
            return True
    # 6. At the start or behind a word that chooses, and no part of a formula
    is_chosen = not i or before in _CHOOSING or _is_dashed(tokens, i)
    return is_chosen and not _begins_a_formula(tokens[i:])


def _is_dashed(tokens: list[str], i: int) -> bool:
    """Returns whether a dash, and no minus, stands before tokens[i]: "5 - B", not "x - B"."""
    if i < 2 or tokens[i - 1] != "-":
        return False
    return tokens[i - 2].isalnum() and not _is_letter(tokens[i - 2])


def _begins_a_formula(tokens: list[str]) -> bool:
    """Returns whether a letter and what stands behind it are no label: A + B, P(A), H2O, X-ray."""
    behind = [token.lower() for token in tokens[1:4]]
    if not behind:
        return False
    is_function = len(behind) == 3 and behind[0] == "(" and _is_letter(behind[1])
    is_compound = behind[0] == "-" and len(behind) > 1 and behind[1] not in _CHOOSING
    is_compound = is_compound and behind[1].isalpha() and not _is_letter(behind[1])
    return behind[0] in _FORMULA or behind[0].isdigit() or is_function or is_compound


def _leader(tokens: list[str], i: int) -> int | None:
    """Returns the first letter of a list or of initials, which stands behind a noun; else None."""
    start = i
    while start > 1:
        step = start - 1
        while step > 0 and tokens[step].lower() in _LED_JOINING:
            step -= 1
        is_joined = step < start - 1 and tokens[start - 1] != "("
        if not is_joined or not _is_letter(tokens[step]):
            break
        start = step
    if start == i or not start:
        return None
    noun = tokens[start - 1].lower()
    is_noun = noun.isalpha() and not _is_letter(noun)
    return start if is_noun else None


def difference(answer: str, box: str) -> str | None:
    """Returns how the choice in a box differs; None if it is right.

    ValueError if `answer` chooses nothing.
    """
    gold = read(answer)
    chosen = read(box)
    if gold is None:
        raise ValueError(f"the answer {answer[:100]!r} {_advice(answer)}")
    if chosen is None:
        return "not one choice"
    return None if gold == chosen else "another choice"


def _advice(answer: str) -> str:
    """Returns what a reference answer would have to be."""
    if answer.strip(" ().").isdigit():
        return (
            "is a digit, and `choice` reads letters, such as B; for options that are numbered use "
            "the verifier `number`, or `string` where the box must be just that"
        )
    return "is not a choice, such as B or (B) or ACD"
