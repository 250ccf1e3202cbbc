"""Bytes of one output stream become lines of log; how the bytes were cut into reads does not matter."""

from __future__ import annotations

import codecs

from zbrain_nb.worker.masking import Mask

#: Longer lines are cut into pieces of this many characters.
LONGEST = 64 * 1024


class LineAssembler:
    """Assembles the lines of one stream.

    Bytes are UTF-8, with U+FFFD for what is not. A carriage return within a line starts it again, as on a
    terminal: of a progress bar only its last state stays.

    Parameters
    ----------
    mask : Mask, optional
        Hides values in the lines, also those that the cut of an overlong line would part.
    """

    def __init__(self, mask: Mask | None = None) -> None:
        self._mask = mask if mask is not None and mask.longest else None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, without their breaks."""
        return self._cut(self._decoder.decode(data))

    def flush(self) -> list[str]:
        """Return the unfinished line, if any, as finished."""
        lines = self._cut(self._decoder.decode(b"", final=True))
        rest, self._rest = self._rest.rstrip("\r"), ""
        if self._mask is not None:
            rest = self._mask.text(rest)
        return [*lines, rest] if rest else lines

    def take_rest(self) -> bytes:
        """Return the unfinished line, if any, as bytes, and forget it."""
        rest = self._rest.encode() + self._decoder.getstate()[0]
        self._decoder.reset()
        self._rest = ""
        return rest

    def _cut(self, text: str) -> list[str]:
        whole = self._rest + text
        *parts, rest = whole.split("\n")
        lines: list[str] = []
        for part in parts:
            lines.append(self._last_state(part.rstrip("\r"), lines))
        # a \r at the end may be half of a \r\n
        body = rest.rstrip("\r")
        # an unfinished line may end within a value that is to be hidden
        spare = 0 if self._mask is None else self._mask.longest
        self._rest = self._last_state(body, lines, spare) + ("\r" if len(body) < len(rest) else "")
        if self._mask is not None and self._mask.hits(whole):
            return [self._mask.text(line) for line in lines]
        return lines

    def _last_state(self, line: str, pieces: list[str], spare: int = 0) -> str:
        """Return what follows the last carriage return; add full pieces of overlong text to `pieces`."""
        if len(line) <= LONGEST:
            return line[line.rfind("\r") + 1 :]
        last = ""
        for state in line.split("\r"):
            last = state
            while len(last) > LONGEST + spare:
                cut = LONGEST if self._mask is None else self._mask.place_to_cut(last, LONGEST)
                pieces.append(last[:cut])
                last = last[cut:]
        return last
