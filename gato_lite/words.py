"""What was last said before a patch: the run of text tokens that came before it in its document.

A mission stands at the beginning of an episode and an observation far behind it. `last_words` finds, for every patch,
the text that it is to be looked at with; training finds it in whole documents, acting in what a row has read so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Words:
    """R runs of text of W tokens in all, and which of them each of P patches follows."""

    ids: npt.NDArray[np.int64]
    """(W,) text ids."""
    runs: npt.NDArray[np.int64]
    """(W,) run of each, in [0, R)."""
    places: npt.NDArray[np.int64]
    """(W,) place of each in its run."""
    of_patch: npt.NDArray[np.int64]
    """(P,) run that each patch follows; −1 where nothing was said before it in its document."""


def last_words(
    ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64] | Sequence[int], *, n_text: int, patch_id: int
) -> Words:
    """The last run of text before each patch of its document.

    Args:
        ids: (T,) tokens of some documents, end to end.
        lengths: (N,) tokens of each document, with sum T.
        n_text: text ids are those below.
        patch_id: the vocabulary's patch token.
    """
    patches = np.flatnonzero(ids == patch_id)
    if not len(patches):
        return Words(ids=patches, runs=patches, places=patches, of_patch=patches)
    text = ids < n_text
    counts = np.asarray(lengths, np.int64)
    ends = np.cumsum(counts)
    firsts = ends - counts
    begins = text.copy()
    begins[1:] &= ~text[:-1]
    firsts_inside = firsts[firsts < len(ids)]
    begins[firsts_inside] = text[firsts_inside]
    starts = np.flatnonzero(begins)
    run = np.cumsum(begins) - 1  # (T,) last run begun
    of_patch = run[patches]
    document = np.searchsorted(ends, patches, side="right")
    if len(starts):
        of_patch[starts[of_patch] < firsts[document]] = -1  # said in another document
    used, of_used = np.unique(of_patch[of_patch >= 0], return_inverse=True)
    of_patch[of_patch >= 0] = of_used
    kept = np.flatnonzero(text & np.isin(run, used)) if len(used) else np.zeros(0, np.int64)
    return Words(
        ids=ids[kept].astype(np.int64),
        runs=np.searchsorted(used, run[kept]),
        places=kept - starts[run[kept]],
        of_patch=of_patch,
    )


def last_run(ids: npt.NDArray[np.int32], *, n_text: int, other_id: int) -> npt.NDArray[np.int32]:
    """The last run of text in `ids`, and `other_id` after it if something else has followed: all that a reader of
    what comes next has to know of what came before.
    """
    text = np.flatnonzero(ids < n_text)
    if not len(text):
        return np.zeros(0, np.int32)
    gaps = np.flatnonzero(np.diff(text) > 1)
    run = ids[text[gaps[-1] + 1] if len(gaps) else text[0] : text[-1] + 1]
    return run if text[-1] == len(ids) - 1 else np.append(run, np.int32(other_id))
