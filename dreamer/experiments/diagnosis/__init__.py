"""Diagnosis of runs and of updates that were not finite.

diagnose     `dreamer diagnose`: unhealthy signs of a run, with a flag to try for each
checks       the checks, each a function of the history of a run
history      metrics of a run over environment steps, and the finding of a check
debug_batch  `dreamer debug-batch`: repeats a skipped update and reports its first value that was not finite
"""
