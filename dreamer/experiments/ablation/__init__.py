"""Sweeps: runs that compare settings (`dreamer sweep`) or dynamics cores (`dreamer ablate`).

sweep      the command: does all runs of a grid or of a search, each once, and shows its progress
manifest   options of the command, and ablation.json, which holds them
grid       tasks, variants of the core, settings and seeds; the configuration of each run
vary       settings that vary, and the points of a grid or of a random search
search     points of a sweep, one after the other where they depend on results
samplers   Optuna's samplers, an optional dependency
forecast   runs, parameters and expected duration (`--dry-run`)
jobs       does runs by a launcher
launchers  child processes here, jobs of Slurm, tasks of Ray (`--on`)
child      a run as a child process
"""
