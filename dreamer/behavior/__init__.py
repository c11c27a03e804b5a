"""Behavior learned purely in imagination: rollouts, returns, actor and critic."""
