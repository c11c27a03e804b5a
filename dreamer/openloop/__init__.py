"""Open-loop prediction: what a world model imagines when shown a few rows and then only actions, and where it errs.

`rollouts` predicts, `errors` compares with the truth, `study` does both for held-out episodes of a run, `record` makes
it numbers, `traces` and `films` show it, `folder` writes it. Training, `imagine` and `exam` share them.
"""
