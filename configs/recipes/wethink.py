"""WeThink: one run learns from rules and from a judge's tiers, over questions of several types.

arXiv 2506.07905: the reward is 0.7 accuracy + 0.3 format. Multiple choice and blanks are checked by
rules; descriptions get a tier from a language model (DeepSeek-V3).

    python tools/judge_stand_in.py &
    python -m tools.arms --config=recipes/wethink --seeds=3 --workdir=runs/wethink

all_types_tiers     numbers, letters and descriptions; the judge's tiers are quarters, 0 to 1
all_types_binary    as above, and only a whole description is worth anything
rule_only           no descriptions in training: what rules can check

The second arm differs from the first in `verify.judging.read`, the third in `grpo.train`. All ask
the same judge the same question, and take as many samples.

Other than in the paper: the questions are the program's and not synthesised by two models; answers
stand in boxes and not in tags; the judge is a stand-in that reads facts and is no language model.
The paper prints neither its tiers nor its judge's prompt. The teacher leaves most digits out, so
that a whole description is rare at first: that is where tiers can tell more than right and wrong.

What came out: docs/results/recipes.md.
"""

import dataclasses

from r1v3_jax.config import load_config
from r1v3_jax.data import Mixture
from r1v3_jax.rewards.verifiers.judging import LastWord

base = load_config("digit_types")
grpo = base.stages["grpo"]
config = dataclasses.replace(base, name="wethink")

# Only the best tier counts, the others are wrong.
judging = config.verify.judging
whole = tuple((word, float(worth == 1)) for word, worth in judging.read.worth)
binary = dataclasses.replace(judging, read=LastWord(whole))
# The first two parts are numbers and letters.
by_rule = Mixture(grpo.train.parts[:2])

arms = {
    "all_types_tiers": config,
    "all_types_binary": dataclasses.replace(
        config, verify=dataclasses.replace(config.verify, judging=binary)
    ),
    "rule_only": config.with_stages(grpo=dataclasses.replace(grpo, train=by_rule)),
}
