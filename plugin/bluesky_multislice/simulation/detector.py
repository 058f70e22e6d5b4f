"""A simulated detector: a real ophyd-async ``StandardDetector`` that writes HDF5 while the scan runs."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    PathProvider,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    TriggerInfo,
    soft_signal_r_and_setter,
)

FRAMES_DATASET = "/entry/data/data"


class FrameFileWriter:
    """Writes given frames one by one into an HDF5 file, which can be read during the scan (SWMR).

    Args:
        frames: (view, y, x) frames to write, in the order of the scan.
    """

    def __init__(self, frames: NDArray) -> None:
        self.frames = frames
        self.written, self._set_written = soft_signal_r_and_setter(int, 0)
        self._file: h5py.File | None = None
        self._count = 0

    def open(self, path: Path) -> None:
        """Start a new file."""
        self.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = self.frames.shape[1:]
        self._file = h5py.File(path, "w", libver="latest")
        self._file.create_dataset(
            FRAMES_DATASET, (0, *shape), self.frames.dtype, maxshape=(None, *shape), chunks=(1, *shape)
        )
        self._file.swmr_mode = True
        self._count = 0
        self._set_written(0)

    def write_next(self) -> None:
        """Write the next frame."""
        if self._file is None or self._count >= len(self.frames):
            raise RuntimeError(f"the simulated detector has no frame {self._count}: it has {len(self.frames)} frames")
        dataset = self._file[FRAMES_DATASET]
        dataset.resize(self._count + 1, axis=0)  # pyright: ignore[reportAttributeAccessIssue]
        dataset[self._count] = self.frames[self._count]  # pyright: ignore[reportIndexIssue]
        dataset.flush()  # pyright: ignore[reportAttributeAccessIssue]
        self._count += 1
        self._set_written(self._count)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Trigger(DetectorTriggerLogic):
    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        """Accept any exposure time: the frames are given."""

    async def default_trigger_info(self) -> TriggerInfo:
        return TriggerInfo()


class _Acquire(DetectorAcquireLogic):
    def __init__(self, writer: FrameFileWriter) -> None:
        self.writer = writer

    async def start_acquiring(self) -> None:
        self.writer.write_next()

    async def wait_for_idle(self) -> None:
        """Return at once: ``start_acquiring`` has already written the frame."""

    async def ensure_stopped(self) -> None:
        """Do nothing: no acquisition is active between frames."""


class _Data(DetectorDataLogic):
    def __init__(self, writer: FrameFileWriter, path_provider: PathProvider) -> None:
        self.writer, self.path_provider = writer, path_provider

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        info = self.path_provider(datakey_name)
        path = Path(info.directory_path) / f"{info.filename}.h5"
        self.writer.open(path)
        shape = self.writer.frames.shape[1:]
        return StreamResourceDataProvider(
            uri=f"{info.directory_uri}{path.name}",
            resources=[
                StreamResourceInfo(
                    data_key=datakey_name,
                    shape=shape,
                    chunk_shape=(1, *shape),
                    dtype_numpy=np.dtype(self.writer.frames.dtype).str,
                    parameters={"dataset": FRAMES_DATASET},
                )
            ],
            mimetype="application/x-hdf5",
            collections_written_signal=self.writer.written,
        )

    async def stop(self) -> None:
        self.writer.close()


class SimulatedDetector(StandardDetector):
    """A detector that writes given frames to HDF5.

    Args:
        frames: (view, y, x) frames to record, in the order of the scan.
        path_provider: folder and name of the file.
        name: name of the device and of its data key.
    """

    def __init__(self, frames: NDArray, path_provider: PathProvider, name: str = "") -> None:
        writer = FrameFileWriter(frames)
        self.add_detector_logics(_Trigger(), _Acquire(writer), _Data(writer, path_provider))
        super().__init__(name=name)
