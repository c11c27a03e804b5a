"""Hand-optimised equivalents of plain code, for speed alone.

`training/accelerate.py` is the only importer. It installs an equivalent for the duration of an update, after it has run
both on a tiny batch and found equal values and gradients. Where they differ, because somebody edited or subclassed the
plain code, the plain code runs.
"""
