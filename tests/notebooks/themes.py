"""Small notebooks, each about one theme, as texts of their code cells."""

from __future__ import annotations

THEMES: dict[str, list[str]] = {
    "last expression": ["x = 6 * 7\nx", "x;", "x + 1", "None", "x; x * 2", "print(x)\nx"],
    "exceptions": [
        "def load(path):\n    return parse(path)\n\ndef parse(path):\n    raise ValueError(f'no {path}: é')",
        "print('before')\nload('a.csv')\nprint('after')",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('chained') from error",
        "{}['key']",
        "undefined_name",
        "print('goes on')",
    ],
    "figures": [
        "%matplotlib inline\nimport matplotlib.pyplot as plt",
        "plt.plot([1, 2, 4])\nplt.title('first');",
        "fig, ax = plt.subplots(figsize=(3, 2))\nax.bar(['a', 'b'], [1, 2])\nfig",
        "plt.figure(figsize=(2, 2))\nplt.plot([1])\nprint('drawn')\n1 / 0",
    ],
}
