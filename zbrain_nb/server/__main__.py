"""``python -m zbrain_nb.server``: how clients and the extension start a host."""

import sys

from zbrain_nb.server.serving import main

sys.exit(main())
