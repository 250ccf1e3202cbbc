"""`diagnose`: all checks, one after the other."""

from __future__ import annotations

from zbrain_nb.client.diagnosis.database import check_database
from zbrain_nb.client.diagnosis.directory import check_directory, check_disk, check_owner_file, check_token
from zbrain_nb.client.diagnosis.findings import Diagnosis, fine, problem
from zbrain_nb.client.diagnosis.installation import check_extension, check_kernels, check_python
from zbrain_nb.client.diagnosis.machine import check_memory, check_session
from zbrain_nb.client.diagnosis.service import Service, check_service
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.settings import read_settings


def diagnose() -> list[Diagnosis]:
    """Look at this Python, Jupyter, the settings, the data directory, the machine and the server.

    Returns
    -------
    list of Diagnosis
        From what everything rests on to what rests on it: of several problems the first is the cause, as a rule.
    """
    found = [*check_python(), *check_extension()]
    try:
        settings = read_settings()
    except ZBrainError as error:
        return [*found, problem("settings", error.message, error.hint or "Correct the variable, or unset it.")]
    found.append(fine("settings", "all that are set hold"))
    try:
        data = DataDir(settings.data, settings.artifacts)
    except ZBrainError as error:
        return [*found, problem("data directory", error.message, error.hint)]
    found += check_directory(data)
    found += check_disk(data)
    found += check_token(data)
    found += check_owner_file(data)
    found += check_database(data)
    service = Service.find(settings)
    found += check_service(service, settings, data)
    found += check_kernels(service.version)
    found += check_memory()
    found += check_session(service.local_pid)
    return found
