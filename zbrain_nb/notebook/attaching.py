"""``%zbrain attach``: after a restart of the kernel, the notebook's jobs, their handles and what they shall bind."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from zbrain_nb.client.client import Client
from zbrain_nb.client.group import GROUP_TAG, PLACE_TAG, JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.printing import printable
from zbrain_nb.model.errors import JobNotFound, ZBrainError
from zbrain_nb.model.job import JobState
from zbrain_nb.notebook.binding import OutBindings
from zbrain_nb.notebook.grid import MAX_RUNS
from zbrain_nb.notebook.origin import VARIABLE_TAG
from zbrain_nb.notebook.runs import NotebookRuns


def attach(
    runs: NotebookRuns, bindings: OutBindings, namespace: dict[str, Any], handles: Sequence[JobHandle] | None = None
) -> None:
    """Take up jobs; if not said which, the newest of each cell of the notebook.

    Its handle is bound to its ``--job`` variable, its ``--out`` names are bound now or when it succeeds; what the
    notebook has assigned since stays. Jobs that have not ended show their views.
    """
    if handles is None:
        handles = runs.newest_by_cell()
    if not handles:
        sys.stdout.write(
            "zbrain: this notebook has no jobs. If it was renamed, `%zbrain attach OLD.ipynb` finds those that it had; "
            "`%zbrain attach JOB` takes up any one.\n"
        )
    for handle in handles:
        handle.earlier = runs.earlier_than(handle)
        if (group_id := handle.job.spec.tags.get(GROUP_TAG)) is not None:
            _attach_group(handle, group_id, namespace)
            continue
        variable = handle.job.spec.tags.get(VARIABLE_TAG)
        if variable:
            namespace.setdefault(variable, handle)
        namespace["_zb"] = handle
        bound = _bind(handle, bindings, namespace)
        said = f"; {', '.join(bound)} {'are' if len(bound) > 1 else 'is'} bound" if bound else ""
        state = handle.job.state
        if state.ended:
            sys.stdout.write(f"zbrain: {printable(handle.name)} {_word(state)}{said}.\n")
        else:
            handle.display()


def attach_to(
    names: Sequence[str],
    runs: NotebookRuns,
    bindings: OutBindings,
    namespace: dict[str, Any],
    find: Callable[[str], JobHandle],
) -> None:
    """Take up the jobs that a person names, or all of a notebook by the path that it had.

    Raises
    ------
    JobNotFound
        If there is no such job, or none of that notebook.
    """
    handles: list[JobHandle] = []
    for name in names:
        if not name.endswith(".ipynb"):
            found = [find(name)]
            handles += found
        else:
            old = runs.of(name)
            found = old.all()
            if not found:
                raise JobNotFound(f"The notebook {old.notebook!r} has no jobs.", "Give the path that it had.")
            handles += old.newest_by_cell()
        known = {handle.id for handle in runs.all()}
        for handle in found:
            if handle.id not in known:
                runs.add(handle)
    attach(runs, bindings, namespace, handles)


def _attach_group(one: JobHandle, group_id: str, namespace: dict[str, Any]) -> None:
    group = find_group(one.client, group_id)
    group.earlier = one.earlier
    variable = one.job.spec.tags.get(VARIABLE_TAG)
    if variable:
        namespace.setdefault(variable, group)
    namespace["_zb"] = group
    group.display()


def find_group(client: Client, group_id: str) -> JobGroup:
    """Return the jobs of a group, in order; what was submitted again stands where `JobGroup.put` has it.

    Anybody may submit a job with these tags. So a place is only what its owner has in it, whose job is the oldest: the
    group's tag is known to nobody before.
    """
    found = client.jobs(limit=2 * MAX_RUNS, tag=(GROUP_TAG, group_id))[::-1]  # the oldest first
    places: dict[int, JobHandle] = {}
    for handle in found:
        place = handle.job.spec.tags.get(PLACE_TAG, "0")
        if place.isdecimal() and handle.job.owner == found[0].job.owner:
            places.setdefault(int(place), handle)
    group = JobGroup(client, [places[place] for place in sorted(places)])
    for handle in found:
        group.put(handle)
    return group


def _word(state: JobState) -> str:
    return {JobState.SUCCEEDED: "has succeeded", JobState.FAILED: "has failed"}.get(state, "was canceled")


def _bind(handle: JobHandle, bindings: OutBindings, namespace: dict[str, Any]) -> list[str]:
    """Bind what the notebook does not have; return the names that are bound now."""
    keep = handle.refresh().job.spec.keep
    names = [name for name in keep if name not in namespace] if isinstance(keep, list) else []
    if not names or (handle.job.state.ended and handle.job.state is not JobState.SUCCEEDED):
        return []
    bindings.add(handle, names)
    with contextlib.suppress(ZBrainError):  # the binding itself tells of it, and there may be other jobs
        bindings.finish(handle)
    return [name for name in names if name in namespace]
