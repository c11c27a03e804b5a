"""Reports of runs and ablations."""
