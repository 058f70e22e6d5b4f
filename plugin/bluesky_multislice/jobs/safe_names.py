"""Names that need no escaping in a path, a shell or a scheduler."""

import hashlib
import re

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def safe_name(text: str) -> str:
    """Return a name of letters, digits, dots, dashes and underscores for a text.

    A text that is already safe, such as a uid, is returned unchanged. Other texts get a hash that keeps them distinct.
    """
    if _SAFE.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9]+", "-", text)[:40].strip("-")
    return f"{words}-{digest}" if words else digest
