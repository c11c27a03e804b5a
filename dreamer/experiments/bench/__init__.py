"""Cost of updates and acting, and information about the machine.

bench    `dreamer bench`: seconds, FLOPs and the fraction of the machine's best rate
costs    measurements of the parts of an update and of the loop
scaling  cost of an update by batch, length, horizon and size
doctor   `dreamer doctor`: environment information
"""
