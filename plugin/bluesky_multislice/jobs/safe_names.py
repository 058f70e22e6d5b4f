"""Names that a scheduler, a shell and a path take as they are."""

import hashlib
import re

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def safe_name(text: str) -> str:
    """Return a text as one word of letters, digits, dots, dashes and underscores.

    A text that is one already, such as a uid, stays; of any other, a hash keeps different ones apart.
    """
    if _SAFE.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9]+", "-", text)[:40].strip("-")
    return f"{words}-{digest}" if words else digest
