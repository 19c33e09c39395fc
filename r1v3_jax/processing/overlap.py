"""How much of a frame an earlier one covers, for a camera that moves (Embodied-R's key frames).

OpenCV is imported when it is needed: only who picks key frames wants it.
"""

import numpy as np
from PIL import Image

MATCHES = 10  # with so many or fewer nobody knows how the camera has moved
RANSAC_PIXELS = 5.0  # a match that lands farther off is none
LEAST_OVERLAP = 0.5  # below it a frame shows something new


def shows_little_of(before: Image.Image, after: Image.Image) -> bool:
    """Tells whether the first frame covers less than half of the second: the rest is new.

    The rule of Embodied-R (arXiv 2504.12680, its released code), for `video.key_frames`:

        kept = key_frames(frames, shows_little_of)

    ImportError without OpenCV, with what to install.
    """
    return overlap(before, after) < LEAST_OVERLAP


def overlap(before: Image.Image, after: Image.Image) -> float:
    """Returns the share of the second frame that the first one covers, 0 to 1.

    The first is laid over the second by a homography of matched ORB features. 0 if there are too
    few matches, or none that agree. ImportError without OpenCV.

        a camera that turns right by a quarter of the width   ->   0.75
    """
    cv2 = _opencv()

    # 1. Points of both frames that look alike.
    detector = cv2.ORB_create()
    grey = [np.asarray(frame.convert("L")) for frame in (before, after)]
    (points, words), (points_after, words_after) = (
        detector.detectAndCompute(one, None) for one in grey
    )
    if words is None or words_after is None:
        return 0.0
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(words, words_after)
    if len(matches) <= MATCHES:
        return 0.0

    # 2. How the first frame must be bent to lie on the second.
    source = np.float32([points[match.queryIdx].pt for match in matches])
    target = np.float32([points_after[match.trainIdx].pt for match in matches])
    bend, _ = cv2.findHomography(source, target, cv2.RANSAC, RANSAC_PIXELS)
    if bend is None:
        return 0.0

    # 3. Where its corners come to lie, and what lies inside the second frame.
    corners = _corners(before)
    bent = cv2.perspectiveTransform(corners[None], bend)[0]
    # Matches that agree by chance turn a frame inside out.
    if not np.isfinite(bent).all() or not cv2.isContourConvex(bent):
        return 0.0
    area, _ = cv2.intersectConvexConvex(bent, _corners(after))
    return float(area) / (after.width * after.height)


def _corners(frame: Image.Image) -> np.ndarray:
    """Returns the corners of a frame in order, float32[4, 2] of (x, y)."""
    width, height = frame.size
    return np.float32([(0, 0), (width, 0), (width, height), (0, height)])


def _opencv():
    """Imports OpenCV; ImportError with what to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "key frames by overlap need OpenCV, which is not installed; "
            "pip install 'r1v3_jax[video]'"
        ) from error
    return cv2
