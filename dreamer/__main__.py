"""Entry point of `python -m dreamer`."""

import sys

from dreamer.cli.main import main

sys.exit(main())
