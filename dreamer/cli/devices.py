"""`--devices N`: `dreamer train` in N processes, started and watched by torchrun's agent."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence

import envs
from dreamer.config import Config
from dreamer.system.device import choose_device
from dreamer.system.redaction import warn
from envs.process import STOP_SIGNALS, stopped_status


def start_ranks(config: Config, argv: Sequence[str]) -> int:
    """Run `dreamer train ARGV` in `config.devices` processes; returns the exit status of a run of one process.

    Stop signals are passed on to all processes, which save. When one ends otherwise, the others are ended too. Raises
    `UserError` when this machine lacks the devices.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    choose_device(config.device, config.devices)
    logging.disable()  # it reports at length what the processes say in one line
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # with -P nothing comes from the current folder
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, envs.cores() // config.devices)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds in which they may save
    with tempfile.TemporaryDirectory(prefix="dreamer-ranks-") as folder:
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=config.devices,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle=",".join(signal.Signals(number).name for number in STOP_SIGNALS),
        )
        try:
            elastic_launch(launch, sys.executable)("-P", "-m", "dreamer", "train", *argv)
        except SignalException as stop:
            return stopped_status(stop.sigval)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode >= 0:
                return failure.exitcode
            warn(f"dreamer: process {rank} of {config.devices} was ended by {signal.Signals(-failure.exitcode).name}")
            return 2
    return 0
