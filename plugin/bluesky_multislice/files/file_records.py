"""Record of an input file, for the provenance."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_MAX_HASHED_BYTES = 4 * 2**30


def file_record(path: Path) -> dict[str, Any]:
    """Return path, size, modification time and, for files up to 4 GiB, the SHA-256 of a file."""
    about = path.stat()
    digest = None
    if about.st_size <= _MAX_HASHED_BYTES:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    modified = datetime.fromtimestamp(about.st_mtime, UTC).isoformat(timespec="seconds")
    return {"path": str(path), "bytes": about.st_size, "modified": modified, "sha256": digest}
