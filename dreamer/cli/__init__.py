"""The command line: `main` finds the subcommand, a function of `commands` or a module of its name."""

import os
import sys

# A user's project may have a folder `envs` of its own. Commands need this one, so they look for it first.
_own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
for _place, _entry in enumerate(sys.path):
    if os.path.isdir(os.path.join(_entry, "envs")) or os.path.isfile(os.path.join(_entry, "envs.py")):
        if not os.path.samefile(_entry or os.curdir, _own):
            sys.path.insert(_place, _own)
        break
