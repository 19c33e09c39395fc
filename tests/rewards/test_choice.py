"""Which letters a text chooses: forms of one choice, of several, and of none."""

import pytest

from r1v3_jax.rewards.verifiers import choice

# Between bars. Each chooses B.
CHOOSES_B = r"""B|b|(B)|B.|(b).|$B$|\text{B}|\textbf{(B)}|\mathrm{(B)}|**B**|`B`|`**B**`|__B__
    |'B'|"B"|\{B\}|[B]|Ｂ|（B）|B!|\boxed{B}|B \checkmark|Option B|option B is correct
    |choice B|the answer is B|The correct answer is (B).|Answer: B|Final answer: B|I choose B
    |I would choose B|I'd choose B|Therefore, B|So B|It's B|B is correct
    |B is the correct option|B is right|B only|only B|(B) is correct|Option (B)|It must be B
    |B选项|B 选项|选项B|选B|选择B|故选B|应选：B|答案是B|答案为B|正确答案是B|正确选项为B。
    |B项正确|B是正确的|B. 7 cm|(B) 7 cm|B) 7 cm|B: 7 cm|B, 7 cm|B - 7 cm|B — 7 cm|B 7 cm
    |B (7 cm)|[B] 7 cm|B → 7 cm|B、7 cm|B．7 cm|B、等腰三角形|b) yes|Option B: Paris
    |B because it is 7|B, since 3+4=7|25 (B)|25. (B)|25, (B)|25 → (B)|\frac{1}{2} (B)
    |30^\circ (B)|Paris (B)|7 cm, option B|25 \text{ (B)}|\textbf{(B)}\ 25|B. Vitamin C|B. 5 V
    |B. 5 A|B. point A moves|B. points A, C and D|B. 点A、C在圆上|B. 线段A|B. Washington D.C.
    |B. the U.S.|B. A triangle|B. A lot of rain|B. Plan A or plan C|B. X-ray|B. DNA|B. H2O
    |B. between A and C|B. from A to C|B. x + C|B. x^2 + C|B. AC = D|B. A \cap C
    |B. \angle A = \angle C|B. P(A) = P(C)|B. \frac{A}{C}|B. a = c|B. 37°C
    |B. cannot be determined|B. Incorrect|B. False|(B) none of the above|B. Both A and C
    |B. Neither A nor C|B. both A and C are true|B. All of A, C and D|B. A and C only
    |~~A~~ B|B. point A is right
    |B. Only A and C are true|B. Only C|B. C only|B. Both (A) and (C)|B. Options A and C
    |B. I only|B. I and II|B. II and III only|B. Neither I nor II|B. A和C都对"""
# None of these is the choice of A alone.
NOT_A = r"""A. wrong, so B|A. 5 (could also be B)|A or B|A. or B|A. 5 or B|A/B|A?B|A (maybe B)
    |A (not B)|A (or B)|A (B?)|A [or D]|either A or B|A. 7 B. 8|A. 7 cm, B. 8 cm|(A) 5 (B) 6
    |A) 5 B) 6|[A] 5 [B] 6|A: yes B: yes|A. none; choose B|A. no, the answer is B|A. no B
    |A. 5, but B is right|A. 5. Wait, B|A. Actually B|A. 5 → B|A. 5 \to B|A → B|A->B|A – B
    |A — B|A. 5 – B|A. 5 — B|A. 5, B|A. 5; B|A. 5: B|A. 5/B|A. 5? B?|A, but B is possible
    |A. 5, or perhaps option b|A. Sorry, D|A. changed my mind to D|A. it's D|A. could be D
    |A. can be D|A. or even D|A. wrong D|A vs B|A. 5 vs B. 6|A and/or B|A. 5 and B|A. 5 (B)
    |A. 5. B|A. B or D|A. B and D; D|A. Hence C|A. both A and B|A. Either B or A
    |A. Both B and C, so D|A. Neither; B|A. (B)|A. not B|A. **B**|A. 错误，选B|A. 5，也可能是B
    |A 或 B|A或者B|A，不，B|A. 但是B更好|A. 5 或 B. 6|A不对，选B|A. 不对，是B
    |A is wrong, B is right|option A is incorrect|A is incorrect|(A) is incorrect
    |option (A) is wrong|A. is not correct|A is not right|A isn't correct|A cannot be correct
    |(A) cannot be the answer|A is false|A is the wrong answer|A is excluded
    |Option A: incorrect, B|A, which is wrong, so D|not A|Not (A)|The answer is not A
    |It is not A|It can't be A|Don't choose A|anything but A|all except (A)|without A|A不对
    |A错误|A，错误|A不正确|A除外|非A|排除A|不选A|5 (A) or 6 (B)|5 (A), 6 (B)|not 5 (A)
    |5 (A or B)|5 (not A)|B (A)|f(A)|P(A)|\sin(A)|C(5,2)|A triangle|a triangle|A square
    |A correct answer|A right angle|point A|line A|\angle A|A'|A_1|2A|AA|Aa|aB|a or b
    |a. 5 or b. 6|(a) 5 (b) 6|A > B|A+B|A unless B|A or not
    |~~A~~|~~A~~ B|A. 5 otherwise B|A. 5 ... B|A. 5 # B|A. 5 B is correct|A B C D|none|all|1||?"""
CHOOSES_A_AND_C = r"""A, C|AC|CA|\{A, C\}|{A,C}|[A, C]|["A", "C"]|A \& C|A & C|A, and C
    |A and C|(A)(C)|(A), (C)|(A) and (C)|a, c|A; C|A、C|A和C|A与C|\text{A and C}
    |\text{A}, \text{C}|**A**, **C**|options A and C|both A and C|A and C are correct
    |The correct options are A and C.|AC选项|选AC|答案是A、C"""


def forms(text: str) -> list[str]:
    return [form.strip() for form in text.split("|")]


@pytest.mark.parametrize("text", forms(CHOOSES_B))
def test_one_letter_is_chosen(text):
    """Proves: words around a letter and an option's text behind it change nothing."""
    assert choice.read(text) == {"B"}


@pytest.mark.parametrize("text", forms(NOT_A))
def test_a_letter_is_not_chosen(text):
    """Proves: who takes a letter back, adds another one or denies it has not chosen it."""
    assert choice.read(text) != {"A"}


@pytest.mark.parametrize("text", forms(CHOOSES_A_AND_C))
def test_several_letters_are_chosen(text):
    """Proves: letters in any frame and order are a set of choices."""
    assert choice.read(text) == {"A", "C"}


def test_letters_alone_are_all_chosen():
    """Proves: behind a mark too; with "only" they would be an option's text."""
    assert choice.read("C. A and B") == choice.read("(C)(A)(B)") == {"A", "B", "C"}
    assert choice.read("B. D") == {"B", "D"}
