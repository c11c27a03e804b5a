"""Building blocks that know nothing of reinforcement learning: layers, distributions, the optimizer, tensor structs."""
