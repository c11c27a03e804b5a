"""An environment that breaks; apart from its tests, so that worker processes need not import them."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from envs.toy import Counting


class Faulty(Counting):
    """Breaks in the third step of every fifth episode, as `fault` does."""

    def __init__(self, fault):
        super().__init__(length=6)
        self.fault = fault

    def step(self, action):
        answer = super().step(action)
        if self._episode % 5 == 1 and self._step == 3:
            return self.fault(answer)
        return answer


def raises(answer):
    raise RuntimeError("the robot fell over")


def exits(answer):
    sys.exit(3)


def dies(answer):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(answer):
    time.sleep(100)


def nan(answer):
    return ({**answer[0], "row": np.array([np.nan], np.float32)}, *answer[1:])


def long(answer):
    return ({**answer[0], "row": np.zeros(2, np.float32)}, *answer[1:])
