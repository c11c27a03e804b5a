"""Grids of runs that compare dynamics cores."""
