"""Hand-optimised equivalents of plain code. They exist only for speed.

Only `training/accelerate.py` imports them. It compares each with the plain code on a tiny batch and installs it for
updates if values and gradients agree. If the plain code was edited or overridden so that they differ, updates run the
plain code.
"""
