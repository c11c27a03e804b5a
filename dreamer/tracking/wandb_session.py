"""W&B session of a run: id of the W&B run, online or offline mode, and W&B's service process."""

import contextlib
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from dreamer.errors import first_line
from dreamer.system.files import write_atomically
from dreamer.tracking.destination import PLACE, own_settings, settings_here
from envs.process import shielded

Mode = Literal["online", "offline", "disabled"]

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def run_id(run_dir: Path) -> str:
    """Return the W&B id of a run folder, kept in RUN/wandb_id. On first use it is WANDB_RUN_ID or a new one.

    Raises:
        ValueError: the file or the variable holds something else.
    """
    path = run_dir / "wandb_id"
    if not path.exists():
        chosen = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        if not RUN_ID.fullmatch(chosen):
            raise ValueError(f"WANDB_RUN_ID={chosen!r:.80} must be at most 64 letters, digits, _ and -")
        write_atomically(path, f"{chosen}\n".encode())
    with open(path, encoding="utf-8") as file:
        kept = file.read(1000).strip()
    if not RUN_ID.fullmatch(kept):
        raise ValueError(f"{path} does not hold a W&B run id; delete it to start a new W&B run")
    return kept


def chosen_by_variables() -> set[str]:
    """Return the names of the W&B settings that W&B's variables choose, such as `run_name` for WANDB_NAME."""
    import wandb

    settings = wandb.Settings()
    usual = set(settings.model_fields_set)
    settings.update_from_env_vars(dict(os.environ))
    return set(settings.model_fields_set) - usual


def keep_run(run_dir: Path, run: Any) -> None:
    """Keep id, project and entity of the W&B run that was started: W&B's variables may have chosen others than asked.

    An entity that is merely the account's default is not kept.
    """
    named = own_settings().get("entity") or os.environ.get("WANDB_SWEEP_ID")
    kept = {"project": run.project, "entity": run.entity} if named else {"project": run.project}
    write_atomically(run_dir / "wandb_id", f"{run.id}\n".encode())
    write_atomically(run_dir / PLACE, json.dumps({name: value or "" for name, value in kept.items()}).encode())


def open_session() -> None:
    """Start the W&B service process, and silence W&B unless the user has a W&B run of their own in this process."""
    import wandb
    from wandb.sdk import wandb_setup

    with own_places_only(), shielded():
        if wandb_setup.singleton().most_recent_active_run is None:
            wandb.setup(wandb.Settings(silent=True))


def choose_mode(wanted: str, entity: str = "") -> tuple[Mode, str]:
    """Return the W&B mode, and the reason if it is offline. Uses neither the network nor a prompt.

    Raises:
        ValueError: the session's server is not the one that the user is logged in to; or a settings file in the current
            folder names another server, or another entity while `entity` is empty.
    """
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    with own_places_only():
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
    if not found:
        return "offline", "not logged in"
    _check_server(host, entity)
    return "online", ""


def _check_server(host: str, entity: str) -> None:
    """Raise `ValueError` unless `host` is the user's own server and no file in the current folder names another one."""
    import wandb
    from wandb.sdk.lib import wbauth

    own, here = own_settings(), settings_here()
    server = own.get("base_url") or wandb.Settings.model_fields["base_url"].default
    if not _is_same(host, server) and wbauth.session_credentials(host=host) is None:
        raise ValueError(f"it would log to {host}, but you are logged in to {server}; WANDB_BASE_URL chooses a server")
    if not _is_same(here.get("base_url", host), host):
        theirs = here["base_url"]
        raise ValueError(
            f"a file in wandb/ here names the server {theirs}, but you are logged in to {host}; "
            "WANDB_BASE_URL chooses a server"
        )
    if not entity and here.get("entity", own.get("entity")) != own.get("entity"):
        raise ValueError(f"a file in wandb/ here names the entity {here['entity']}; WANDB_ENTITY chooses an entity")


def _is_same(url: str, other: str) -> bool:
    """True if two addresses belong to the same server. W&B's public server has several addresses."""
    from wandb.sdk.lib import urls, wbauth

    upstream = getattr(urls, "forge_upstream_url", str)  # older W&B has a single address
    try:
        return bool(upstream(wbauth.HostUrl(url).url) == upstream(wbauth.HostUrl(other).url))
    except ValueError:
        return False


@contextlib.contextmanager
def own_places_only() -> Iterator[None]:
    """Context in which W&B reads only the user's own settings for a new session, and none in the current folder.

    Otherwise W&B reads `wandb/settings` in the current folder. That file can name a server, which W&B sends the user's
    key to.
    """
    from wandb.sdk import wandb_settings
    from wandb.sdk.lib import settings_file

    def read(settings: wandb_settings.Settings) -> settings_file.SettingsFiles:
        own = Path(settings.settings_system) if settings.settings_system else None
        return settings_file.SettingsFiles(global_settings=own, local_settings=Path(os.devnull))

    whole = wandb_settings.Settings.read_system_settings
    wandb_settings.Settings.read_system_settings = read  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        wandb_settings.Settings.read_system_settings = whole  # type: ignore[method-assign]


def close_session() -> None:
    """End the W&B service process, unless the user has a W&B run of their own in this process."""
    import wandb
    from wandb.sdk import wandb_setup

    if wandb_setup.singleton().most_recent_active_run is None:
        wandb.teardown()


def kill_session(run: Any) -> None:
    """Kill the W&B service process, unless it serves another run than `run`; `run` is None before a run has started.

    W&B has no public function to abandon an upload: its exit handler waits for the server. Data that were not uploaded
    remain on disk.
    """
    import wandb
    from wandb.sdk import wandb_setup

    session = wandb_setup.singleton()
    if session.most_recent_active_run not in (None, run):
        return
    with contextlib.suppress(AttributeError, subprocess.TimeoutExpired):
        process = session._connection._proc._process  # type: ignore[union-attr]
        process.kill()
        process.wait(timeout=1)
    # This makes W&B drop its reference to the dead process. Its farewell message to the process fails.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
