"""Frames in TIFF files: a stack of pages, or a series of files. A page is read when it is indexed.

Shapes: frames (row, y, x); pages follow each other in the order of the files.
"""

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError


@dataclass(frozen=True)
class _Stack:
    """The frames of one file.

    Attributes:
        path: the file.
        pages: index of each frame's page; empty if the pages have no headers of their own.
        offset: where the pixels of a stack with a single header begin, bytes; frames follow each other.
        order: byte order of such a stack, ``<`` or ``>``.
        frames: number of frames.
        shape: (y, x) of a frame.
        dtype: type of a pixel.
    """

    path: Path
    pages: tuple[int, ...]
    offset: int
    order: str
    frames: int
    shape: tuple[int, int]
    dtype: np.dtype


class TiffFrames:
    """The frames of one or more TIFF files. One file is open at a time.

    Args:
        paths: the files, in the order of the frames.

    Raises:
        FramesError: a file is damaged, has pages that are no frames, or differs in size or type from the first.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stacks = [_stack(path) for path in paths]
        first = self._stacks[0]
        for stack in self._stacks:
            if (stack.shape, stack.dtype) != (first.shape, first.dtype):
                raise FramesError(
                    "All frames of a scan must have one size and type.",
                    got=f"{stack.shape} {stack.dtype} in {stack.path}, {first.shape} {first.dtype} in {first.path}.",
                    remedy="leave files out that are no frames of this scan.",
                )
        self._starts = np.cumsum([0, *(stack.frames for stack in self._stacks)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *first.shape)
        self.dtype: np.dtype = first.dtype
        self._opened: tuple[Path, Any] | None = None
        self._files = ExitStack()
        weakref.finalize(self, self._files.close)
        try:
            self[0:1]
        except OSError as error:
            raise FramesError(
                "TIFF frames must be readable.",
                got=f"{error}.",
                remedy="restore the file; for a compression that tifffile cannot read, install imagecodecs or write "
                "the frames without compression.",
            ) from error

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return frames (row, y, x) of consecutive rows.

        Raises:
            OSError: a page is damaged.
        """
        start, stop, _ = rows.indices(self.shape[0])
        found = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        for at, row in enumerate(range(start, stop)):
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            found[at] = self._read(self._stacks[number], row - int(self._starts[number]))
        return found

    def _read(self, stack: _Stack, frame: int) -> NDArray:
        """Return one frame (y, x)."""
        if not stack.pages:
            size = int(np.prod(stack.shape)) * stack.dtype.itemsize
            stored = stack.dtype.newbyteorder(stack.order)  # pyright: ignore[reportArgumentType]
            return np.memmap(stack.path, stored, "r", stack.offset + frame * size, stack.shape)
        try:
            return self._file(stack.path).pages[stack.pages[frame]].asarray()
        except Exception as error:  # tifffile and its decoders raise errors of many types.
            raise OSError(f"{stack.path}, page {stack.pages[frame]}: {error}") from error

    def _file(self, path: Path) -> Any:
        """Return an open file, and close the former one."""
        import tifffile

        if self._opened is None or self._opened[0] != path:
            self._files.close()
            self._opened = (path, self._files.enter_context(tifffile.TiffFile(path)))
        return self._opened[1]


def _stack(path: Path) -> _Stack:
    """Return what a file contains, from its headers.

    Raises:
        FramesError: it is damaged, or has pages that are no frames.
    """
    # Imported here because jobs need no TIFF.
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            pages = [
                (index, page)
                for index, page in enumerate(file.pages)
                if not (isinstance(page, tifffile.TiffPage) and page.is_reduced)
            ]
            shapes = list(dict.fromkeys((tuple(page.shape), page.dtype) for _, page in pages))
            if len(shapes) == 1 and len(shapes[0][0]) == 2 and shapes[0][1] is not None:
                shape, dtype = shapes[0][0], np.dtype(shapes[0][1])
                whole = file.series[0]
                frames = max(len(pages), int(np.prod(whole.shape)) // int(np.prod(shape)))
                _check_complete(path, frames, (file.imagej_metadata or {}).get("images", frames))
                if len(pages) > 1 or frames == 1:
                    return _Stack(path, tuple(index for index, _ in pages), 0, "=", len(pages), shape, dtype)
                # ImageJ writes one header for a large stack.
                if whole.dataoffset is not None:
                    return _Stack(path, (), int(whole.dataoffset), file.byteorder, frames, shape, dtype)
    except FramesError:
        raise
    except Exception as error:  # tifffile raises errors of many types.
        raise FramesError(
            "A file of frames must be a readable TIFF.", got=f"{path}: {error}.", remedy=_REMEDY
        ) from error
    text = ", ".join(f"{shape} {dtype}" for shape, dtype in shapes) or "no page"
    raise FramesError(
        "The pages of a TIFF with frames must be grey, of one size and one type.",
        got=f"{path} with pages {text}.",
        remedy="write one grey image per page, and other images into other files.",
    )


_REMEDY = "restore the file, or correct the path."


def _check_complete(path: Path, frames: int, announced: int) -> None:
    """Check that a stack of ImageJ, whose header tells the number of frames, is not cut."""
    if frames < announced:
        raise FramesError(
            "A TIFF stack must be complete.",
            got=f"{frames} of {announced} frames in {path}: the file is truncated.",
            remedy=_REMEDY,
        )
