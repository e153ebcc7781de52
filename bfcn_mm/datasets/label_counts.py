"""How many pixels of each value every label file holds: read once, then cached."""

import hashlib
import io
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import get as read_bytes
from PIL import Image

FORMAT = 'bfcn_mm label counts 1'
REPORT_EVERY = 5.0  # seconds between two progress lines


class LabelFile(NamedTuple):
    """One annotation and what mmseg does to its values while loading it."""

    path: str
    reduce_zero_label: bool
    label_map: dict[int, int] | None


def leaf_datasets(dataset: object) -> Iterable[object]:
    """The plain datasets inside wrappers: ConcatDataset, RepeatDataset, MultiImageMixDataset..."""
    if hasattr(dataset, 'datasets'):
        for child in dataset.datasets:
            yield from leaf_datasets(child)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset)
    else:
        yield dataset


def label_files(dataset: object) -> list[LabelFile]:
    """The label files of any BaseSegDataset, wrapped or not; items without one are left out."""
    files = []
    for leaf in leaf_datasets(dataset):
        if not hasattr(leaf, 'get_data_info'):
            continue
        for index in range(len(leaf)):
            info = leaf.get_data_info(index)
            if info.get('seg_map_path'):
                files.append(
                    LabelFile(
                        info['seg_map_path'],
                        bool(info.get('reduce_zero_label', False)),
                        info.get('label_map'),
                    )
                )
    return files


def count_file(path: str) -> np.ndarray:
    """Pixels of each raw value, int64 (256,).

    Raises ValueError for an image that is no 8-bit index map, FileNotFoundError if it is missing.
    """
    image = Image.open(io.BytesIO(read_bytes(path)))
    if image.mode in ('L', 'P'):
        return np.array(image.histogram(), dtype=np.int64)
    if len(image.getbands()) > 1:
        raise ValueError(
            f'{path}: a label image must have one channel of class indices, got mode '
            f'{image.mode!r}: convert colours to indices'
        )
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 255:
        worst = values.max() if values.max() > 255 else values.min()
        raise ValueError(f'{path}: label values must be in 0..255, got {worst}: map them to 8 bits')
    return np.bincount(values.ravel(), minlength=256)


def count_files(
    paths: Sequence[str], data_root: str | None = None, log: Callable[[str], None] = print
) -> np.ndarray:
    """Pixels of each raw value in each file, int64 (len(paths), 256).

    Rank 0 reads, the others receive. The result is cached in `data_root`/.bfcn_mm, or in the user's
    cache folder where that is not writable, under a key of the paths, sizes and times of change.
    """
    shared = [_cached_counts(paths, data_root, log) if is_main_process() else None]
    broadcast_object_list(shared)
    return shared[0]


def _cached_counts(
    paths: Sequence[str], data_root: str | None, log: Callable[[str], None]
) -> np.ndarray:
    key = _key(paths)
    folders = _cache_folders(data_root)
    if key is not None:
        for folder in folders:
            counts = _load(folder / f'labels_{key}.npz', len(paths))
            if counts is not None:
                return counts
    counts = _read_all(paths, log)
    if key is not None and not any(
        _save(folder / f'labels_{key}.npz', counts) for folder in folders
    ):
        log(f'Label counts are not cached: none of {", ".join(map(str, folders))} is writable')
    return counts


def _read_all(paths: Sequence[str], log: Callable[[str], None]) -> np.ndarray:
    counts = np.zeros((len(paths), 256), dtype=np.int64)
    started = reported = time.monotonic()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for index, row in enumerate(pool.map(count_file, paths)):
            counts[index] = row
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                log(f'Reading label files: {index + 1} of {len(paths)}')
    log(f'Read {len(paths)} label files in {time.monotonic() - started:.1f} s')
    return counts


def _key(paths: Sequence[str]) -> str | None:
    """A digest of the files' names and states; None if one is not on a local disk."""
    digest = hashlib.sha256(FORMAT.encode())
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            return None
        digest.update(f'{os.path.abspath(path)}\0{state.st_size}\0{state.st_mtime_ns}\n'.encode())
    return digest.hexdigest()[:24]


def _cache_folders(data_root: str | None) -> list[Path]:
    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folders = [base / 'bfcn_mm']
    if data_root and _is_writable(data_root):
        folders.insert(0, Path(data_root) / '.bfcn_mm')
    return folders


def _is_writable(folder: str) -> bool:
    """False too where the mode forbids it to everyone, which root could ignore."""
    try:
        return bool(os.stat(folder).st_mode & 0o222) and os.access(folder, os.W_OK)
    except OSError:
        return False


def _load(path: Path, num_files: int) -> np.ndarray | None:
    """The counts saved in `path`; None if there are none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            counts = saved['counts'].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return counts if counts.shape == (num_files, 256) else None


def _save(path: Path, counts: np.ndarray) -> bool:
    """Write atomically; True if it worked."""
    part = path.with_name(f'{path.stem}.{os.getpid()}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open('wb') as file:
            np.savez_compressed(file, counts=counts)
        part.replace(path)
    except OSError:
        return False
    return True


def effective_counts(counts: np.ndarray, files: Sequence[LabelFile]) -> np.ndarray:
    """Counts by the value that the loss sees: after reduce_zero_label, then label_map.

    (n, 256) in and out; the same rules as mmseg's LoadAnnotations.
    """
    result = np.zeros_like(counts)
    tables: dict[tuple, np.ndarray] = {}
    for row, file in enumerate(files):
        key = (file.reduce_zero_label, tuple((file.label_map or {}).items()))
        if key not in tables:
            tables[key] = _value_table(file)
        np.add.at(result[row], tables[key], counts[row])
    return result


def _value_table(file: LabelFile) -> np.ndarray:
    table = np.arange(256)
    if file.reduce_zero_label:
        table = table - 1
        table[[0, 255]] = 255
    mapped = table.copy()
    for old, new in (file.label_map or {}).items():
        mapped[table == old] = new
    return mapped
