"""`python -m dreamer`."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    # `python -m` puts the current folder before all packages. It may be a run folder from somebody else.
    del sys.path[0]

from dreamer.cli.main import main

sys.exit(main())
