"""Takes the compression off the body of an upload, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Callable

import zstandard

from zbrain_nb.model.errors import Malformed

#: The most that is unpacked at a time.
PIECE_BYTES = 1 << 20
#: What a sender may have the unpacker remember.
MAX_WINDOW_BYTES = 8 << 20


def decoder(coding: str, write: Callable[[bytes], None], size_bytes: int) -> Callable[[bytes], None]:
    """Return a function that takes the bytes of a body as they come, and gives the plain ones to `write`.

    Parameters
    ----------
    coding : str
        The body's ``Content-Encoding`` (RFC 9110, 8.4): ``zstd`` (RFC 8878), or ``identity`` for none.
    write : callable
        Takes `PIECE_BYTES` at most at a time.
    size_bytes : int
        What the whole may unpack to at most. The function raises `Malformed` when it is more, or no zstd.

    Raises
    ------
    Malformed
        If the coding is another.
    """
    name = coding.strip().lower()
    if name == "identity":
        return write
    if name != "zstd":
        raise Malformed(f"Content-Encoding {coding[:40]!r} is not known here.", "Send it plain, or as zstd.")
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    packed = unpacker.stream_writer(_Counted(write, size_bytes), write_size=PIECE_BYTES)  # type: ignore[arg-type]

    def take(data: bytes) -> None:
        try:
            packed.write(data)
        except zstandard.ZstdError as error:
            raise Malformed(f"The body is not zstd as its Content-Encoding says: {error}.") from error

    return take


class _Counted:
    """What an unpacker writes to: all that it asks of a file."""

    def __init__(self, write: Callable[[bytes], None], left: int) -> None:
        self._write = write
        self._left = left

    def write(self, piece: bytes) -> int:
        self._left -= len(piece)
        if self._left < 0:
            raise Malformed("The body unpacks to more bytes than its Upload-Length says.")
        self._write(piece)
        return len(piece)
