"""A job in every state that a view knows, each with all that the state can have to show."""

from __future__ import annotations

import base64
from typing import Any

from tests.browser.stub import StubServer, progress, utc

TRACE = [
    "\x1b[31m---------------------------------------------------------------------------\x1b[39m",
    "\x1b[31mValueError\x1b[39m                                Traceback (most recent call last)",
    "\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[3]\x1b[39m\x1b[32m, line 7\x1b[39m\n"
    "\x1b[32m      5\x1b[39m for xb, yb in loader:\n\x1b[32m      6\x1b[39m     logits = model(xb)\n"
    "\x1b[32m----> \x1b[39m\x1b[32m7\x1b[39m     loss = F.cross_entropy(logits, yb)\n"
    "\x1b[32m      8\x1b[39m     step()",
    "\x1b[36mFile \x1b[39m\x1b[32m/env/lib/python3.11/site-packages/torch/nn/functional.py:3479\x1b[39m, in "
    "\x1b[36mcross_entropy\x1b[39m\x1b[34m(x)\x1b[39m\n\x1b[32m   3478\x1b[39m a\n"
    "\x1b[32m-> \x1b[39m\x1b[32m3479\x1b[39m return _C._nn.cross_entropy_loss(",
    "\x1b[31mValueError\x1b[39m: Expected 128, got 96.",
]
PIXEL_BASE64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PIXEL = base64.b64decode(PIXEL_BASE64)
CODE = 'for xb, yb in loader:  # all\n    loss = step(xb, "mean", 0.1)'
VARIABLES: list[dict[str, Any]] = [
    {"name": "model", "type": "ResNet", "summary": "11.2 M parameters", "sha256": "0" * 64, "size": 44_700_000},
    {"name": "history", "type": "DataFrame", "summary": "50 x 4", "sha256": "0" * 64, "size": 2100},
]


def add_every_state(stub: StubServer) -> None:
    """Add pending, running, retrying, succeeded, failed and canceled, in this order."""
    spec: dict[str, Any] = {
        "name": "train",
        "resources": {"cpus": 4, "memory_mb": 16384, "gpus": 1},
        "code": CODE,
        "env": {"KEY": "***"},
    }
    stub.add("pending", reason="Second in line on local: all 4 slots are busy", spec=spec)
    job = stub.add(
        progress=progress(0.62, "epoch 31 of 50", secs=1330),
        spec={**spec, "timeout_secs": 14_400},
        started_at=utc(-1334),
    )
    plot = {"image/png": PIXEL_BASE64, "text/plain": "a plot"}
    stub.outputs[job].append({"output_type": "display_data", "data": plot, "metadata": {}})
    colours = [f"\x1b[3{i % 8}mepoch\x1b[0m {i} \x1b[9{i % 8};1mloss\x1b[0m \x1b[2mdim\x1b[0m" for i in range(40)]
    stub.stored(job, *colours)
    stub.stored(job, "a warning", stream="stderr")
    stub.stored(job, "the worker says something", stream="system")
    job = stub.add(
        "retrying",
        failures=1,
        spec={**spec, "max_retries": 2},
        reason="Killed",
        not_before=utc(90),
        peak_memory_mb=16_300.5,
    )
    stub.stored(job, "step 1")
    job = stub.add(
        "succeeded",
        spec=spec,
        peak_memory_mb=5427.2,
        cpu_secs=858.2,
        output={"acc": 0.914},
        variables=VARIABLES,
        artifacts=[
            {"name": name, "sha256": "0" * 64, "size": 2100}
            for name in ("curve.png", "metrics.csv", "notes.txt", "model.pt")
        ],
    )
    stub.files |= {"curve.png": PIXEL, "metrics.csv": b"epoch,loss\n0,2.214\n", "notes.txt": b"some notes\n"}
    stub.stored(job, *[f"line {i}" for i in range(40)])
    error = {"ename": "ValueError", "evalue": "Expected 128, got 96.", "traceback": TRACE}
    job = stub.add("failed", spec=spec, error=error, variables=VARIABLES[1:])
    stub.stored(job, "epoch 1")
    stub.stored(job, "Traceback (most recent call last):", "ValueError: Expected 128", stream="stderr")
    job = stub.add("canceled", spec=spec, canceled_by="ada")
    stub.stored(job, "a line")
