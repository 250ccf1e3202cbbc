"""Values of JSON are counted before they are decoded, whatever strings hold."""

from __future__ import annotations

import json
import random
from typing import Any

from zbrain_nb.model import amounts
from zbrain_nb.model.amounts import count_values, estimate_values

TEXTS = ["", "a,b", "[{,", '"', "\\", '\\"', '\\\\",[', "é,", "[" * 50, '","']


def number_of(value: Any) -> int:
    """Count values, and an empty list or object as two."""
    if not isinstance(value, list | dict):
        return 1
    return 1 + (sum(map(number_of, value.values() if isinstance(value, dict) else value)) or 1)


def some(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.choice("tnld" if depth < 5 else "tn")
    if kind == "t":
        return chance.choice(TEXTS)
    if kind == "n":
        return chance.choice([1, -1.5e10, None, True])
    items = [some(chance, depth + 1) for _ in range(chance.randrange(6))]
    return items if kind == "l" else {f"{n}{chance.choice(TEXTS)}": item for n, item in enumerate(items)}


def test_values_are_counted_whatever_strings_hold(monkeypatch: Any) -> None:
    monkeypatch.setattr(amounts, "PIECE_BYTES", 7)
    chance = random.Random(1)
    for _ in range(300):
        value = some(chance)
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
            number = number_of(value)
            assert count_values(text.encode(), number) == number, text
            assert number <= estimate_values(text.encode()) < 2 * number, text


def test_no_more_quotes_are_looked_at_than_so_many_values_have() -> None:
    names = json.dumps({f"{n},,": "" for n in range(1000)}).encode()
    assert count_values(names, 1001) == 1001
    assert count_values(b'["' + b"," * 11 + b'"' * 100_000, 10) == 11  # no JSON


def test_few_are_told_quickly_and_too_many_no_further_than_needed() -> None:
    assert count_values(b'"a,b,c"', 1) == 1
    assert count_values(b'"a,b,c"', 3) == 3  # enough for what they could be
    assert count_values(b"[" + b"{}," * 1_000_000, 10) < 1_000_000


def test_estimate_counts_no_commas_in_strings_that_are_many() -> None:
    assert estimate_values(json.dumps(["a, [b], {c}, d" * 1000, 1.5, {"k": "[,"}]).encode()) == 5
    assert estimate_values(json.dumps([""] * 100_000).encode()) == 100_001
