"""`python -m dreamer`."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    # The current folder, which `python -m` puts before all packages, may be a run folder of somebody else's.
    del sys.path[0]

from dreamer.cli import main

sys.exit(main())
