"""Ablations: grids of runs that compare dynamics cores (`dreamer ablate`).

ablate     the command: does all runs of a grid, each once, and shows its progress
manifest   options of the command, and ablation.json, which holds them
grid       tasks, variants of the core and seeds; the configuration of each run
jobs       runs as child processes
"""
