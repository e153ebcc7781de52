"""How engines end: close(), or the end of a `with` block."""


class Closable:
    """An engine whose memory can be given back before it is collected.

    logits, profile and peak_bytes of the latest call can still be read; all else raises RuntimeError.
    """

    closed = False

    def close(self) -> None:
        """Free the model and what was planned for it. Closing again does nothing."""
        if not self.closed:
            self._release()
            self.closed = True

    def _release(self) -> None:
        raise NotImplementedError

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError('this engine is closed: load the model again')

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *_) -> None:
        self.close()
