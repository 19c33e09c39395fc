"""What heat maps are measured by: an example written out, and what each measure can tell apart."""

import numpy as np
import pytest

from r1v3_jax.evaluate.heat_check import (
    digit_places,
    measures,
    summary,
    tiles_of,
)


def test_measures_written_out():
    """Proves: place 0 gives [3 0 0 1]; place 1 is against its cell; 2 is moved by nothing."""
    heat = np.array([[3.0, 0, 0, 1], [1, -2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 2]])
    found = measures(heat)
    np.testing.assert_allclose(found.evidence, [3 - 1 / 3, -2 - 2 / 3, 0, 2])
    np.testing.assert_allclose(found.look, [0.75, 0.5, 0.25, 1.0])
    # Cell 0 gets 1/4 of place 1, 1/4 of place 2 and nothing of place 3.
    np.testing.assert_allclose(found.look_away[0], (0.25 + 0.25 + 0) / 3)
    # One place alone, as of an erased picture.
    first = measures(heat[:1])
    assert first.evidence == found.evidence[:1] and first.look_away.size == 0


def test_evidence_tells_a_digit_from_noise_and_look_does_not():
    """Proves: of a policy that looks at the asked cell whatever stands there, heat of random sign,
    `look` and `directed` are above chance, and `evidence` is not; with digits it is.
    """
    rng = np.random.default_rng(0)
    own = np.eye(4) * 4
    small = 0.2
    noise = [
        measures(own * rng.choice([-1, 1]) + small * rng.normal(size=(4, 4)))
        for _ in range(200)
    ]
    digits = [measures(own + small * rng.normal(size=(4, 4))) for _ in range(200)]
    of_noise = summary(noise)["top left"]
    assert of_noise["look"][1] > 0.25
    assert of_noise["directed"][1] > 0
    assert of_noise["evidence"][1] < 0 < of_noise["evidence"][2]
    mean, low, high = summary(digits)["all places"]["evidence"]
    assert low > 0
    assert (mean, high) == (pytest.approx(4, abs=0.1), pytest.approx(4, abs=0.1))
    assert set(summary([measures(np.eye(4)[:1])] * 2)) == {"top left"}


def test_pictures_of_a_question():
    """Proves: noise is everywhere, or in the top left cell alone."""
    tile = np.zeros((56, 56, 3), np.float32)
    pictures = tiles_of(tile, np.random.default_rng(0))
    assert [x.shape for x in pictures.values()] == [(1, 56, 56, 3)] * 3
    assert not pictures["digits"].any()
    assert pictures["noise"].all()
    assert pictures["erased"][0, :28, :28].all()
    assert (
        not pictures["erased"][0, 28:].any() and not pictures["erased"][0, :, 28:].any()
    )


def test_places_of_the_digits():
    """Proves: prompt [9 4], chain "4 7 _ 3 8 ...": the four digits of the answer, in order."""
    tokens = np.array([9, 4, 4, 7, 1, 3, 8, 1, 4])
    mask = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1], bool)
    assert digit_places(tokens, mask, [4, 7, 3, 8]).tolist() == [2, 3, 5, 6]
    with pytest.raises(ValueError, match="does not begin with the digits"):
        digit_places(tokens, mask, [4, 7, 8, 3])
