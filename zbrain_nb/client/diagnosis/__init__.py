"""The usual troubles, found and explained: what `zbrain doctor` and `%zbrain doctor` show.

Owns the checks, and prints nothing: `diagnose` returns what was found, in the order in which a person reads it.
Nothing is started, changed or left behind.
"""

from zbrain_nb.client.diagnosis.examination import diagnose
from zbrain_nb.client.diagnosis.findings import Diagnosis, Level

__all__ = ["Diagnosis", "Level", "diagnose"]
