"""The machine: memory, timers, random states, device transfers and printed lines."""
