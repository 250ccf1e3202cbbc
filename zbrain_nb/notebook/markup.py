"""The text of an HTML output, for a summary that shows no HTML of a job (`bundle.py`); `view/markup.js` says the same.

What comes out is still what a job wrote: it has to be escaped like any other text.
"""

from __future__ import annotations

import html
import re

#: Each takes time in proportion to the text, whatever is in it.
_STEPS = [
    (re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL), ""),
    (re.compile(r"<(script|style|template|title|noscript)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r"</t[dh] ?>", re.IGNORECASE), "\t"),
    (
        re.compile(
            r"</?(?:address|article|blockquote|br|caption|dd|div|dl|dt|figcaption|figure|footer|h[1-6]|header|hr|li|ol|p"
            r"|pre|section|summary|table|tr|ul)\b[^<>]*>",
            re.IGNORECASE,
        ),
        "\n",
    ),
    (re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE), ""),
]
_ROOM = re.compile(r" ?\t ?")


def text_of_html(source: str) -> str:
    """Return the words of `source`, a line for each block or row, the cells of a row parted by tabs."""
    for pattern, instead in _STEPS:
        source = pattern.sub(instead, source)
    lines = (_ROOM.sub("\t", line).rstrip().lstrip(" ") for line in html.unescape(source).split("\n"))
    return "\n".join(line for line in lines if line)
