"""The sense of a detector mask: which of its values mean a good pixel."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError

MaskSense = Literal["good_is_zero", "good_is_one"]
"""Meaning of a mask's values: 0 is good (CXI, NeXus, pyFAI), or 1 is good."""

_MOST_EXCLUDED = 0.5
"""Largest fraction of pixels that a mask excludes, unless its sense is declared."""


def good_pixels(stored: NDArray, *, origin: str, sense: MaskSense | None = None) -> NDArray[np.bool_]:
    """Return (y, x) True for good pixels.

    Args:
        stored: the mask (y, x), or with further axes of length 1; numbers or booleans.
        origin: file or stream of the mask, for the error.
        sense: meaning of its values; None: 0 is good, and no more than half of the pixels may be excluded.

    Raises:
        FramesError: the array is no mask, or excludes most pixels, so that its sense may be the opposite.
    """
    shape = tuple(n for n in stored.shape[:-2] if n != 1)
    if stored.ndim < 2 or shape or stored.dtype.kind not in "buif":
        raise FramesError(
            "A mask must be an array (y, x) of numbers.",
            got=f"{stored.dtype} of shape {stored.shape} from {origin}.",
            remedy="correct the mask, one value per detector pixel.",
        )
    zero = stored.reshape(stored.shape[-2:]) == 0
    good = ~zero if sense == "good_is_one" else zero
    excluded = 1 - good.mean()
    if sense is None and excluded > _MOST_EXCLUDED:
        raise FramesError(
            "A mask must leave at least half of the pixels, unless its sense is declared.",
            got=f"a mask ({stored.dtype}) from {origin} that excludes {excluded:.0%} of the pixels; 0 means good.",
            remedy="set scan.mask_sense: good_is_one if 1 or True means good, good_is_zero if the mask is right.",
        )
    return good
