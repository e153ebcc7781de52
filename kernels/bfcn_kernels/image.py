"""What an engine takes as an image."""

import numpy as np


def check_image(image: np.ndarray) -> np.ndarray:
    """The image as an array uint8 (h, w, 3) in RGB, without negative strides.

    Anything that numpy reads as one will do: arrays and views, PIL images of mode RGB, CPU tensors.
    Raises ValueError for all else; nothing is converted.
    """
    mode = getattr(image, 'mode', 'RGB')
    if hasattr(image, 'convert') and mode != 'RGB':
        raise ValueError(
            f"image must be RGB, got a PIL image of mode {mode!r}: use .convert('RGB')"
        )
    try:
        array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as err:
        raise ValueError(
            f'image must be uint8 (h, w, 3) RGB, got a {type(image).__name__} ({err})'
        ) from err
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        got = f'{array.dtype} {array.shape}' if array.ndim else f'a {type(image).__name__}'
        raise ValueError(f'image must be uint8 (h, w, 3) RGB, got {got}{_way_out(array)}')
    # numpy takes one row for contiguous whatever its stride; torch does not.
    return array.copy() if min(array.strides) < 0 else array


def _way_out(array: np.ndarray) -> str:
    if array.ndim == 4:
        return ': give one image at a time'
    if array.ndim == 2:
        return ': repeat gray with np.stack([image] * 3, -1)'
    if array.ndim == 3 and array.shape[2] == 4:
        return ': drop alpha with image[..., :3]'
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        return ': use image.transpose(1, 2, 0)'
    if array.ndim == 3 and array.dtype != np.uint8:
        return ': pixels are whole numbers 0..255, of type np.uint8'
    return ''
