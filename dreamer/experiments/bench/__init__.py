"""Cost of updates and acting, and information about the machine.

bench   `dreamer bench`: seconds, FLOPs, the fraction of the best rate; cost by batch, length, horizon and size
costs   measurements of the parts of an update and of the loop
doctor  `dreamer doctor`: environment information
"""
