"""Weights & Biases view: online when logged in, offline otherwise, one W&B run for all processes of a run folder."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamer.errors import first_line
from dreamer.system.files import MB, read_bytes, write_atomically
from dreamer.system.redaction import redact
from dreamer.tracking.config import TrackingConfig
from dreamer.tracking.destination import DIFF, PLACE, PROJECT, flags, own_settings
from dreamer.tracking.views import Status, View
from dreamer.tracking.wandb_session import (
    Mode,
    choose_mode,
    chosen_by_variables,
    close_session,
    keep_run,
    kill_session,
    open_session,
    run_id,
)

CODE = Path(__file__).resolve().parent.parent
"""Folder of the code that W&B saves when its own variables ask for that."""
RETURNS = ("train/return", "eval/return_mean", "eval/return_max", "eval/mode_return_mean")
"""Metrics whose summary is their maximum. The last evaluation is in the summary as `final/...`."""


class WandbView(View):
    """Logs metrics over the x axis `step`, videos, the configuration, the command, the commit and uncommitted changes.

    Flags come first, then W&B's own variables, then the defaults here. A resumed run keeps its name and group.

    W&B is imported in `start`, because that takes a second. A server that cannot be reached within `init_seconds` is
    replaced by an offline run. Nothing is printed but the notice. `run_id` is another W&B run than the folder's own.
    `foreign` are entity and project that only the run folder names (`destination.foreign`): nothing is sent there.
    `group` is the group of a run for which neither a flag nor a variable names one.
    """

    title = "W&B"

    def __init__(
        self,
        config: TrackingConfig,
        run_dir: Path,
        run_info: Mapping[str, Any],
        run_config: Mapping[str, Any],
        init_seconds: float = 30.0,
        run_id: str | None = None,
        foreign: Mapping[str, str] | None = None,
        group: str = "",
    ) -> None:
        self._group = group
        self._config, self._run_dir, self._run_info, self._run_config = config, run_dir, run_info, run_config
        self._init_seconds, self._run_id = init_seconds, run_id
        self.id = run_id or ""
        """Id of the W&B run, once it is started; W&B's variables may choose another one than was asked for."""
        self._foreign = dict(foreign or {})
        self._run: Any = None
        self._abandoned = False

    def start(self) -> None:
        """Start the W&B run, or continue it after a resume."""
        open_session()
        mode, reason = choose_mode(self._config.wandb, self._config.wandb_entity)
        if mode == "disabled":
            # The session would keep this answer for whatever else the process logs later.
            close_session()
            return
        if self._foreign:
            names = flags(self._foreign).strip()
            mode, reason = "offline", f"only the run folder says where to send data; to agree, resume with {names}"
        try:
            self._run = self._init(mode)
        except Exception as error:
            if mode == "offline" or self._abandoned:
                raise
            mode, reason = "offline", f"no connection: {first_line(error)}"
            # The service would keep trying, and keep the id for itself.
            kill_session(None)
            open_session()
            self._run = self._init(mode)
        self.id = str(self._run.id)
        if self._run_id is None:
            keep_run(self._run_dir, self._run)
        # After a resume W&B's own counter of records says nothing; the curves go over environment steps.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        for name in RETURNS:
            self._run.define_metric(name, step_metric="step", summary="max")
        self._send_diff()
        if mode == "online":
            self.notice = f"logs to {self._run.url}"
        else:
            self.notice = f"logs offline ({reason}); upload with: {self._sync_command('offline-run-*')}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one record."""
        if self._run is not None:
            self._run.log({"step": step, **values})

    def video(self, step: int, name: str, path: Path) -> None:
        """Log a video, of which W&B keeps a copy; the file holds its frame rate."""
        import wandb

        if self._run is not None:
            self._run.log({"step": step, name: wandb.Video(path, format="mp4")})

    def image(self, step: int, name: str, path: Path) -> None:
        """Log a picture, of which W&B keeps a copy."""
        import wandb

        if self._run is not None:
            self._run.log({"step": step, name: wandb.Image(str(path))})

    def summary(self, values: Mapping[str, float]) -> None:
        """Set results of the whole run: those of `eval/...` as `final/...`."""
        if self._run is not None:
            self._run.summary.update({re.sub("^eval/", "final/", name): value for name, value in values.items()})

    def artifact(self, step: int, alias: str, files: Mapping[str, Path]) -> None:
        """Log a model as an artifact, of whose files W&B keeps copies."""
        import wandb

        if self._run is not None:
            artifact = wandb.Artifact(f"model-{self._run.id}", type="model", metadata={"step": step})
            for name, path in files.items():
                artifact.add_file(str(path), name=name)
            self._run.log_artifact(artifact, aliases=[alias])

    def close(self, status: Status) -> None:
        """Finish the W&B run and end the W&B service process; an unfinished upload raises TimeoutError."""
        if self._run is not None:
            if status == "interrupted":
                self._run.mark_preempting()
            try:
                self._run.finish(exit_code=0 if status == "finished" else 1)
            except TimeoutError as error:
                command = f"{self._sync_command('run-*')} --include-online"
                raise TimeoutError(f"upload unfinished, complete it with: {command}") from error
        close_session()

    def abandon(self) -> None:
        """Kill the W&B service process, which would otherwise keep this process from ending."""
        self._abandoned = True
        kill_session(self._run)

    def _sync_command(self, runs: str) -> str:
        return f"wandb sync {shlex.quote(str(Path(self._run.settings.wandb_dir)))}/{runs}"

    def _send_diff(self) -> None:
        """Copy uncommitted changes to the files of the W&B run, from which `wandb restore` applies them."""
        path = self._run_dir / DIFF
        if self._config.git_diff and path.is_file():
            folder = self._run.settings.files_dir
            write_atomically(Path(folder) / DIFF, redact(read_bytes(path, 2 * MB).decode(errors="replace")))
            self._run.save(str(Path(folder) / DIFF), base_path=folder, policy="now")

    def _init(self, mode: Mode) -> Any:
        import wandb

        config, chosen = self._config, chosen_by_variables()
        commit = re.match(r"[0-9a-f]{7,64}", str(self._run_info.get("commit", "")))
        usual: dict[str, Any] = {
            "silent": True,
            "console": "off",
            "disable_git": True,
            "label_disable": True,
            "use_dot_wandb": False,
            "root_dir": str(self._run_dir),
            "resume": "allow",
            "run_job_type": "train",
            "git_commit": commit.group() if commit else "",
            "init_timeout": self._init_seconds,
            # Two seconds are left to end the service process before the tracker stops waiting.
            "finish_timeout": max(1.0, config.close_seconds - 2.0),
            "finish_timeout_raises": True,
            # WANDB_SAVE_CODE=true asks for the code.
            **({"code_dir": str(CODE)} if "save_code" in chosen else {"disable_code": True}),
        }
        if self._run_id is not None or not (self._run_dir / PLACE).exists():  # a resumed run keeps them
            usual |= {"run_name": self._run_dir.resolve().name, "run_group": self._group}
        wanted = {"run_name": config.wandb_name, "run_group": config.wandb_group, "run_tags": config.wandb_tags}
        given = {name: value for name, value in usual.items() if name not in chosen} | {
            name: value for name, value in wanted.items() if value
        }
        return wandb.init(
            project=("" if "wandb-project" in self._foreign else config.wandb_project)
            or own_settings().get("project")
            or PROJECT,
            entity=None if "wandb-entity" in self._foreign else config.wandb_entity or None,
            id=self._run_id or run_id(self._run_dir),
            reinit="create_new",
            mode=mode,
            config={**self._run_config, "run_info": dict(self._run_info)},
            settings=wandb.Settings(**{name: value for name, value in given.items() if value != ""}),
        )
