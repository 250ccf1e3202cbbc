"""The files that worker events speak of: those on this disk are stored, those named by hash are looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from zbrain_nb.model.checks import is_sha256
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import ENDINGS, WorkerArtifact, WorkerEvent
from zbrain_nb.model.job import JobArtifact
from zbrain_nb.queue.intake import check_artifact_name
from zbrain_nb.store.artifacts import ArtifactStore


async def keep_files(
    store: ArtifactStore, events: Sequence[WorkerEvent]
) -> tuple[list[WorkerEvent], list[tuple[str, str]]]:
    """Store the files of `events` and find the blobs that they name.

    Returns
    -------
    list of WorkerEvent
        The events, each `WorkerArtifact` replaced by the `JobArtifact` that it became.
    list of (str, str)
        Jobs and the blobs that are named as left by them.

    Raises
    ------
    InvalidSpec
        If a file cannot be read.
    """
    kept: list[WorkerEvent] = []
    named: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, ENDINGS):
            artifacts: list[Any] = []
            for artifact in event.artifacts:
                stored = artifact
                if isinstance(artifact, WorkerArtifact):
                    stored = await _keep(store, artifact)
                artifacts.append(stored)
            named += [(event.job_id, sha256) for sha256 in _blobs(artifacts, event)]
            kept.append(msgspec.structs.replace(event, artifacts=artifacts) if artifacts else event)
        else:
            kept.append(event)
    return kept, named


def _blobs(artifacts: list[Any], event: Any) -> list[str]:
    """Return the hashes that can be looked up; `intake` refuses the event with any other."""
    named = [*artifacts, *event.variables, getattr(event, "result", None)]
    named = [one for one in named if getattr(one, "data", None) is None]
    hashes = [one.get("sha256") if isinstance(one, dict) else getattr(one, "sha256", None) for one in named]
    return [str(text) for text in hashes if is_sha256(text)]


async def _keep(store: ArtifactStore, artifact: WorkerArtifact) -> JobArtifact:
    check_artifact_name(artifact.name)
    try:
        sha256, size = await asyncio.to_thread(store.put_file, artifact.path)
    except OSError as error:
        raise InvalidSpec(
            f"The artifact {artifact.name!r} cannot be read: {error.strerror}.", field="artifacts"
        ) from error
    return JobArtifact(artifact.name, sha256, size)
