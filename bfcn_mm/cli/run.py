"""Segment pictures, folders or videos with a packed model, and show the result over the input.

Needs numpy and OpenCV alone: the model runs in C (engine 'cpu') or in numpy.

    bfcn run model.gguf street.png -o overlay.png
    bfcn run model.gguf frames/ -o overlays/
    bfcn run model.gguf drive.mp4 -o overlay.mp4 --opacity 0.4
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def main(arguments: list[str]) -> int:
    args = _parse(arguments)
    cv2 = _opencv()
    import bfcn_kernels
    from bfcn_kernels.gguf_io import read
    from bfcn_kernels.zoo import resolve

    engine = bfcn_kernels.load(
        args.model, args.engine, args.threads
    )  # refuses a file beyond its limits
    metadata = read(resolve(args.model)).metadata
    segment = Segmenter(engine, metadata, args.opacity, args.labels)
    if args.input.is_dir():
        failed = _run_folder(cv2, segment, args.input, args.out)
    elif args.input.suffix.lower() in VIDEOS:
        failed = _run_video(cv2, segment, args.input, args.out)
    else:
        failed = _run_pictures(cv2, segment, [(args.input, args.out)])
    print(segment.summary())
    if segment.seconds:
        print(f'Written to {args.out}')
    return 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'bfcn run', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', metavar='MODEL.gguf', help="or 'zoo:NAME'")
    parser.add_argument('input', type=Path, metavar='INPUT', help='a picture, a folder or a video')
    parser.add_argument(
        '-o', '--out', type=Path, metavar='OUT',
        help='default: beside the input, its name with _overlay at the end',
    )  # fmt: skip
    parser.add_argument('--engine', choices=('cpu', 'numpy'), default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--opacity', type=float, default=0.5, help='of the colours over the picture, 0 to 1'
    )
    parser.add_argument(
        '--labels',
        action='store_true',
        help='write class numbers as grey values instead of colours',
    )
    args = parser.parse_args(arguments)
    if not 0 <= args.opacity <= 1:
        parser.error(f'--opacity must be in 0..1, got {args.opacity}')
    if not args.input.exists():
        parser.error(f'{args.input}: no such picture, folder or video')
    if args.out is None:
        args.out = args.input.with_name(f'{args.input.stem}_overlay{args.input.suffix}')
        if args.labels and args.input.suffix.lower() in PICTURES:
            args.out = args.out.with_suffix('.png')
    if args.out.resolve() == args.input.resolve():
        parser.error(f'{args.out}: the output would replace the input')
    return args


class Segmenter:
    """Labels of RGB pictures, shown over them; counts time and pixels on the way."""

    def __init__(self, engine, metadata, opacity: float, labels_alone: bool) -> None:
        self.engine, self.classes = engine, metadata.classes
        self.opacity, self.labels_alone = opacity, labels_alone
        self.palette = np.array(metadata.palette or voc_palette(256), np.uint8)
        self.counts = np.zeros(256, np.int64)
        self.seconds: list[float] = []

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (h, w, 3) -> the same with colours over it, or the labels (h, w)."""
        start = time.perf_counter()
        labels = self.engine(image)
        self.seconds.append(time.perf_counter() - start)
        self.counts += np.bincount(labels.ravel(), minlength=256)
        if self.labels_alone:
            return labels
        colours = self.palette[np.minimum(labels, len(self.palette) - 1)]
        return np.uint8(image * (1 - self.opacity) + colours * self.opacity + 0.5)

    def summary(self) -> str:
        """Share of each class in all pixels, and the time of a picture."""
        if not self.seconds:
            return 'No picture was segmented.'
        share = 100 * self.counts / self.counts.sum()
        found = [i for i in np.argsort(-share, kind='stable') if share[i] > 0]
        names = {i: self.classes[i] if i < len(self.classes) else f'class {i}' for i in found}
        width = max(map(len, names.values()))
        lines = [f'{names[i]:{width}} {share[i]:5.1f} %' for i in found]
        pictures = f'{len(self.seconds)} picture' + ('s' if len(self.seconds) > 1 else '')
        return '\n'.join(
            [*lines, f'{pictures}, {1e3 * np.median(self.seconds):.1f} ms each (median)']
        )


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """The colours of PASCAL VOC, distinct for neighbouring numbers: for files without a palette."""
    colours = []
    for label in range(count):
        red = green = blue = 0
        for shift in range(8):  # three bits of the label a step, the lowest into the highest
            three = label >> 3 * shift
            red |= (three & 1) << 7 - shift
            green |= (three >> 1 & 1) << 7 - shift
            blue |= (three >> 2 & 1) << 7 - shift
        colours.append((red, green, blue))
    return colours


def _run_folder(cv2, segment: Callable, folder: Path, out: Path) -> bool:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise FileNotFoundError(f'{folder}: holds no picture ({", ".join(PICTURES)})')
    suffix = '.png' if segment.labels_alone else None
    pairs = [(path, out / (path.with_suffix(suffix) if suffix else path).name) for path in found]
    return _run_pictures(cv2, segment, _progress(pairs))


def _run_pictures(cv2, segment: Callable, pairs: Iterable[tuple[Path, Path]]) -> bool:
    """Whether one failed; the others are done all the same."""
    failed = False
    for path, out in pairs:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            print(f'{path}: OpenCV cannot read it as a picture', file=sys.stderr)
            failed = True
            continue
        _write(cv2, out, segment(np.ascontiguousarray(image[:, :, ::-1])))
    return failed


def _run_video(cv2, segment: Callable, path: Path, out: Path) -> bool:
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise ValueError(f'{path}: OpenCV cannot read it as a video')
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    size = tuple(int(video.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*_codec(out)), rate, size)
    if not writer.isOpened():
        raise ValueError(
            f'{out}: OpenCV cannot write such a video: try a name that ends in .mp4 or .avi'
        )
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    try:
        for frame in _progress(_frames(video), count if count > 0 else None):
            shown = segment(np.ascontiguousarray(frame[:, :, ::-1]))
            if shown.ndim == 2:
                shown = np.repeat(shown[:, :, None], 3, axis=2)
            writer.write(np.ascontiguousarray(shown[:, :, ::-1]))
    finally:
        writer.release()
        video.release()
    return False


def _frames(video) -> Iterator[np.ndarray]:
    while True:
        more, frame = video.read()
        if not more:
            return
        yield frame


def _codec(out: Path) -> str:
    return 'MJPG' if out.suffix.lower() == '.avi' else 'mp4v'


def _write(cv2, out: Path, picture: np.ndarray) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    bgr = picture if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, ::-1])
    try:
        written = cv2.imwrite(str(out), bgr)
    except cv2.error:
        written = False
    if not written:
        raise OSError(f'{out}: cannot be written as a picture: end its name in .png or .jpg')


def _opencv():
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "bfcn run needs OpenCV: pip install opencv-python-headless, or 'bfcn_mm[run]'"
        ) from error
    return cv2


def _progress(items: Iterable, total: int | None = None) -> Iterable:
    """With a bar on a terminal, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, total=total, disable=None)
