"""How a rank tells that another one has gone."""

from bluesky_multislice.errors import LostRankError

_SAID = ("gloo", "nccl", "xccl", "connection closed by peer", "connection reset by peer", "broken pipe")


def lost_rank(error: BaseException) -> LostRankError | None:
    """Return what to tell a person where an exchange failed as another rank was gone; None of other errors.

    Args:
        error: what was raised on this rank.
    """
    text = str(error)
    if not (isinstance(error, RuntimeError) and any(word in text.lower() for word in _SAID)):
        return None
    return LostRankError(
        "All ranks of a job live until its end.",
        got=f"a rank of the job has gone: {text.splitlines()[0]}.",
        remedy="the log tells which rank failed first and how; one without a word of its own was killed, often for its "
        "memory. Started again in the same folder, the job goes on from its newest checkpoint.",
    )
