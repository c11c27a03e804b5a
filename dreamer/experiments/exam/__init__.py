"""Exam of the dynamics cores (`dreamer exam`): what each can and cannot represent, measured against ground truth.

Only world models are trained, without a policy, on the same recorded data and with equally many parameters.

exam          the command: does all parts, each once, and writes the results
uncertainty   part: two possible outcomes of one action
recall        part `memory`: a cue that decides a later reward
drift         part: open-loop prediction on DeepMind Control
speed         part: seconds per update and per imagined step
recordings    recorded episodes for training and test
learner       configuration and training of a world model
verdict       results as Markdown: conclusions as sentences, and a table
plots         figures of the results
"""
