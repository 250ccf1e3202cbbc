"""Which environment variables travel: to jobs from notebook, command line and worker, and to who serves a queue.

Programs read a thousand variables that nobody can list, so all travel but those that hold a credential or lead to one,
by their names or by the form of their values. Whoever means one to reach a job names it: ``--env``, ``--secret``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from zbrain_nb.model.tokens import shows_secret

#: What names the secrets of a job within it: what runs there shall not send them on with the jobs that it submits.
SECRET_NAMES = "ZBRAIN_SECRETS"
# What belongs to Jupyter, the Hub or this queue is not the job's.
_OURS = re.compile(r"JPY_|JUPYTERHUB_|ZBRAIN_|ZDB_|ZWORKER_|ZDEFAULT_")
# What sets up accounts of clouds and clusters, and leads to agents that sign for a person.
_ACCOUNTS = re.compile(
    r"AWS_(?!(DEFAULT_)?REGION$)|AZURE_|ARM_|GOOGLE_|GCLOUD_|GCP_|CLOUDSDK_|BOTO_|OCI_|DIGITALOCEAN_|VAULT_|KUBECONFIG$|"
    r"KRB5CCNAME$|KRB5_KTNAME$|DOCKER_CONFIG$|NETRC$|XAUTHORITY$|GPG_AGENT_INFO$|SSH_(AUTH_SOCK|AGENT_PID)$",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(
    r"TOKEN(?!IZERS?_)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|COOKIE|BEARER|KEYS?(_|$|FILE|ID$)|PRIVATE|"
    r"(?<=.)_?(PASS|PWD|PASSFILE|PASSCODE|AUTH|DSN|CREDS?|PAT|JWT|CONNSTR|CONNECTION_?STRING)(_|$)",
    re.IGNORECASE,
)
_HARMLESS = frozenset({"OLDPWD"})
# A password in an address, a private key, tokens whose issuers gave them a form.
_SHOWS_CREDENTIAL = re.compile(
    r"://[^/@\s:]*:[^/@\s]+@|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[0-9A-Za-z_-]+\.eyJ[0-9A-Za-z_-]+\.|"
    r"\b(gh[pousr]_|github_pat_|glpat-|hf_|xox[abeprs]-|sk-|AKIA|ASIA)[0-9A-Za-z_-]{16,}"
)
# Who clients of this process talk to, and as whom: nothing for those who serve.
_OF_CLIENTS = frozenset({"ZBRAIN_TOKEN", "ZBRAIN_URL", "ZBRAIN_SERVER_KEY", SECRET_NAMES})


def travelling_environ(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what of an environment a job may see: no credential, nothing of Jupyter, the Hub or this queue."""
    secrets = environ.get(SECRET_NAMES, "").split()
    return {
        name: value
        for name, value in environ.items()
        if not (_OURS.match(name) or holds_credential(name, value) or name in secrets) and _is_text(name + value)
    }


def serving_environ(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a host or a worker that this process starts: what jobs may see, and the settings.

    Jobs can read the environment of every process of their account (``/proc/PID/environ``); so nothing stands there.
    """
    ours = ("ZBRAIN_", "ZDB_", "ZWORKER_", "ZDEFAULT_")
    settings = {name: value for name, value in environ.items() if name.startswith(ours) and name not in _OF_CLIENTS}
    return travelling_environ(environ) | {name: value for name, value in settings.items() if not shows_secret(value)}


def holds_credential(name: str, value: str) -> bool:
    """Whether a variable holds a credential or leads to one, as far as name and value tell."""
    if name in _HARMLESS:
        return False
    named = _ACCOUNTS.match(name) or _CREDENTIALS.search(name)
    return bool(named or _SHOWS_CREDENTIAL.search(value) or shows_secret(value))


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
