"""Recognises communication errors that mean that another rank has ended."""

from bluesky_multislice.errors import LostRankError

_PHRASES = ("gloo", "nccl", "xccl", "connection closed by peer", "connection reset by peer", "broken pipe")


def lost_rank(error: BaseException) -> LostRankError | None:
    """Return a ``LostRankError`` for a communication error caused by the end of another rank; None for other errors.

    Args:
        error: the exception on this rank.
    """
    text = str(error)
    if not (isinstance(error, RuntimeError) and any(phrase in text.lower() for phrase in _PHRASES)):
        return None
    return LostRankError(
        "All ranks of a job must run until its end.",
        got=f"a rank of the job has ended: {text.splitlines()[0]}.",
        remedy="find in the log the rank that failed first; a rank without a message was killed, often because memory "
        "ran out. Start the job again in the same folder to resume from its newest checkpoint.",
    )
