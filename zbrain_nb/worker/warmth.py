"""What the zygote of a job has to be like: which modules it should have imported, in which environment.

The worker gathers the modules when it prepares a job, the spawner picks a zygote by the environment. Which of the
modules may be imported ahead is decided where they lie, in the zygote (`cell.preloading`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from zbrain_nb.model.environment import SECRET_NAMES

#: More than so many modules are not imported ahead for one job.
MODULES = 100
_IMPORT = re.compile(r"^[ \t]*(?:import[ \t]+([^#;\n]+)|from[ \t]+([\w.]+)[ \t]+import\b)", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_LONGEST = 200
#: What is in every zygote, or is the notebook's own.
_NEVER = frozenset({"__main__", "zbrain_nb", "IPython", "ipykernel"}) | sys.stdlib_module_names
_UNFIT = (
    "cudf cuml cupy grpc jax jaxlib jpype keras lightning mpi4py mxnet paddle pycuda pyopencl pyspark "
    "pytorch_lightning ray rmm rpy2 tensorflow torch torchaudio torchvision transformers triton warp"
)
#: They set up a GPU, threads or an interpreter of another language, at the import or soon after it.
NEVER_AHEAD = frozenset(_UNFIT.split())
# Python, the loader, numerical libraries and the C library look at these once, when they start.
_READ_ONCE = re.compile(
    r"PYTHON(?!UNBUFFERED$)|LD_|LANG$|LANGUAGE$|LC_|MALLOC_|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|GOTO_|BLIS_|VECLIB_|"
    r"NUMEXPR_|NPY_|CUDA_|MATPLOTLIBRC$|MPLCONFIGDIR$"
)


def modules_of(code: str, imported: Iterable[str]) -> list[str]:
    """Return the modules that a cell will need.

    Parameters
    ----------
    code : str
        Its text, whose import statements are looked for line by line.
    imported : iterable of str
        What its notebook has imported.

    Returns
    -------
    list of str
        Full names, sorted, none of the standard library; some may not exist.
    """
    found = set(imported)
    for plain, package in _IMPORT.findall(code):
        found |= {part.split(" as ")[0].strip() for part in plain.split(",")} if plain else {package}
    named = (name for name in found if len(name) <= _LONGEST and _NAME.fullmatch(name))
    return sorted(name for name in named if name.partition(".")[0] not in _NEVER)[:MODULES]


def lasting_environment(environ: Mapping[str, str], modules: Iterable[str] = ()) -> dict[str, str]:
    """Return those variables that a zygote has to have been started with, for a job with this environment.

    All others are set in the process that is forked from it.

    Parameters
    ----------
    environ : mapping of str to str
        The whole environment.
    modules : iterable of str
        What the zygote imports: each may read variables that begin with its name.
    """
    roots = tuple({f"{name.partition('.')[0].upper()}_" for name in modules})
    secrets = environ.get(SECRET_NAMES, "").split()  # no process but the job's own has these
    return {
        name: value
        for name, value in environ.items()
        if (_READ_ONCE.match(name) or name.startswith(roots)) and name not in secrets
    }
