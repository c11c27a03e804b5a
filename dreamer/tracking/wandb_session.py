"""What lies around a W&B run: its id, whether it goes online, and the service process that W&B starts."""

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Any, Literal

from dreamer.errors import first_line

Mode = Literal["online", "offline", "disabled"]

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def run_id(run_dir: Path) -> str:
    """Return the W&B id of a run folder, made on first use and kept in RUN/wandb_id.

    Raises:
        ValueError: the file holds something else.
    """
    path = run_dir / "wandb_id"
    if not path.exists():
        new = path.with_name("wandb_id.new")
        with open(new, "w") as file:
            file.write(secrets.token_hex(4) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    kept = path.read_text().strip()
    if not RUN_ID.fullmatch(kept):
        raise ValueError(f"{path} does not hold a W&B run id; delete it to start a new W&B run")
    return kept


def open_session() -> None:
    """Start the W&B service process, and silence W&B unless the user has a W&B run of their own in this process."""
    import wandb
    from wandb.sdk import wandb_setup

    if wandb_setup.singleton().most_recent_active_run is None:
        wandb.setup(wandb.Settings(silent=True))


def choose_mode(wanted: str) -> tuple[Mode, str]:
    """Return the W&B mode and, when it is offline, why; asks neither the network nor the user."""
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    settings = wandb_setup.singleton().settings
    if wanted == "auto" and settings._noop:
        return "disabled", ""
    if wanted == "offline" or (wanted == "auto" and settings._offline):
        return "offline", "as asked"
    try:
        host = settings.base_url
        found = wbauth.authenticate_session(host=host, source="dreamer", prompt=False, update_session=False)
    except AuthenticationError as error:
        return "offline", first_line(error)
    return ("online", "") if found else ("offline", "not logged in")


def close_session() -> None:
    """End the W&B service process, unless the user has a W&B run of their own in this process."""
    import wandb
    from wandb.sdk import wandb_setup

    if wandb_setup.singleton().most_recent_active_run is None:
        wandb.teardown()


def kill_session(run: Any) -> None:
    """Kill the W&B service process unless it serves another run than `run` (None for one that has not started).

    W&B has no public way to give up: its exit handler waits for the server. What it has not uploaded is on disk.
    """
    import wandb
    from wandb.sdk import wandb_setup

    session = wandb_setup.singleton()
    if session.most_recent_active_run not in (None, run):
        return
    with contextlib.suppress(AttributeError):
        process = session._connection._proc._process  # type: ignore[union-attr]
        process.kill()
        process.wait(timeout=1)
    # Only now does it forget the dead process; telling it good-bye fails.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
