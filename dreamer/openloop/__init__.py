"""Open-loop evaluation: the model observes the first steps of held-out episodes and predicts the rest without them.

evaluation    the whole of it: filter, predict, let the policy act in the model
rollouts      held-out episodes, rollouts with given actions or with the policy, errors by the number of steps ahead
record        the result as numbers for imagination.json, and as metrics
traces        figures of predicted vectors and of errors
videos        videos and film strips of predicted images
folder        files of an evaluation on disk

Training, `dreamer imagine` and `dreamer exam` share these parts.
"""
