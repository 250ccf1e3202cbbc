"""``python -m zbrain_nb.worker`` (see `service`)."""

from __future__ import annotations

import sys

from zbrain_nb.worker.service import main

if __name__ == "__main__":
    sys.exit(main())
