"""Cost of an update, and the environment that it runs in."""
