"""Old names of settings, which configurations of older runs, the command line and `compose` still accept."""

from __future__ import annotations

from collections.abc import Mapping

RENAMED = {
    "agent.behavior.saturation": "agent.behavior.tanh_penalty",
    "agent.behavior.slow_rate": "agent.behavior.slow_critic_tau",
    "agent.behavior.return_rate": "agent.behavior.return_ema_rate",
    "loop.film": "loop.video",
}
"""Old dotted path -> new dotted path, of a setting or of a whole section."""


def current_name(path: str, renamed: Mapping[str, str] = RENAMED) -> str:
    """Return the present dotted path of a setting that may be given by an old one."""
    for old, new in renamed.items():
        if path == old or path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path
