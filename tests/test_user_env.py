"""The agent in Python and in environments of the user's own: acting, training, resuming, registering."""

from __future__ import annotations

import json
import re
import textwrap

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from running import ROOT, dreamer_command, newest, timeless, tiny_config, tiny_flags
from tiny import mode_latents, unchecked

import dreamer
import envs
from dreamer.batch import ActionSpec
from dreamer.cli.main import main
from dreamer.config import override
from dreamer.experience.spaces import Spec, long_vectors
from dreamer.runs.folder import open_run
from dreamer.tracking import read


def target_class():
    """A class as a notebook defines it: worker processes get it by value and need not import the tests."""

    class Target(gymnasium.Env):
        """Walk on a line to a target drawn at the reset; three numbers on an uncommon scale, two actions in [0, 10]."""

        def __init__(self, limit=6):
            self.observation_space = spaces.Box(-500.0, 500.0, (3,), np.float64)
            self.action_space = spaces.Box(0.0, 10.0, (2,), np.float32)
            self._limit = limit

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self._position, self._target, self._time = 0.0, self.np_random.uniform(-5, 5), 0
            return self._observation(), {}

        def step(self, action):
            assert self.action_space.contains(action)
            self._position += float(action[0] - action[1])
            self._time += 1
            distance = abs(self._position - self._target)
            return self._observation(), -distance, distance < 0.5, self._time >= self._limit, {}

        def _observation(self):
            return np.array([self._position, self._target, self._time])

    return Target


Target = target_class()


# Four lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs with numbers for actions, and with choices."""
    folder = tmp_path_factory.mktemp("trained")
    return {
        task: dreamer.train(tiny_config(f"toy:{task}", steps=24), run_dir=folder / task).path
        for task in ("copy", "copy_discrete")
    }


def test_four_lines_act_in_an_environment(trained):
    agent = dreamer.load(trained["copy"])
    env = envs.make("toy:copy", seed=1)
    (obs, _), state, total, done = env.reset(), None, 0.0, False
    while not done:
        action, state = agent.act(obs, state is None, state)
        assert isinstance(action, np.ndarray) and action.shape == (1,) and action.dtype == np.float32
        assert env.action_space.contains(action)
        obs, reward, terminated, truncated, _ = env.step(action)
        total, done = total + reward, terminated or truncated
    assert -32 <= total <= 32


def test_choices_are_integers(trained):
    agent = dreamer.load(trained["copy_discrete"])
    env = envs.make("toy:copy_discrete")
    (obs, _), state, chosen = env.reset(), None, set()
    for _ in range(32):
        action, state = agent.act(obs, state is None, state)
        assert env.action_space.contains(action)
        obs, *_ = env.step(action)
        chosen.add(int(action))
    assert chosen == {0, 1}


@pytest.mark.parametrize("task", ["copy", "copy_discrete"])
def test_a_batch_of_observations_is_each_of_them(trained, task):
    agent = dreamer.load(trained[task])
    rng = np.random.default_rng(0)
    observations = [
        {key: rng.standard_normal((3, *shape)).astype(np.float32) for key, shape in agent.obs_shapes.items()}
        for _ in range(4)
    ]
    first = np.array([[True] * 3, [False] * 3, [False, True, False], [False] * 3])
    with mode_latents():
        state, together = None, []
        for obs, is_first in zip(observations, first, strict=True):
            actions, state = agent.act(obs, is_first, state, mode="mode")
            assert len(actions) == 3
            together.append(actions)
        for i in range(3):
            state = None
            for obs, is_first, actions in zip(observations, first, together, strict=True):
                single = {key: value[i] for key, value in obs.items()}
                action, state = agent.act(single, bool(is_first[i]), state, mode="mode")
                np.testing.assert_allclose(action, actions[i], atol=1e-5)


def test_the_state_carries_what_was_seen_and_is_first_forgets_it(trained):
    agent = dreamer.load(trained["copy"])
    obs, other = ({key: np.full(shape, value) for key, shape in agent.obs_shapes.items()} for value in (1.0, -1.0))

    def last_state(*history, is_first=False):
        state = None
        for seen in history:
            _, state = agent.act(seen, False, state, mode="mode")
        _, state = agent.act(obs, is_first, state, mode="mode")
        return agent.world_model.core.pack(state.state).numpy()

    with mode_latents():
        assert not np.allclose(last_state(other, other), last_state(), atol=1e-3)
        np.testing.assert_array_equal(last_state(other, other, is_first=True), last_state())


def test_an_observation_that_lacks_something_is_refused(trained):
    agent = dreamer.load(trained["copy"])
    with pytest.raises(ValueError, match="observation lacks cue"):
        agent.act({"action": np.zeros(1)})


def test_a_loaded_agent_is_the_one_that_was_trained(trained):
    saved = newest(trained["copy"])["agent"]["modules"]
    loaded = dreamer.load(trained["copy"]).state_dict()
    assert saved.keys() == loaded.keys() and all((saved[name] == loaded[name]).all() for name in saved)
    with pytest.raises(dreamer.UserError, match="no run folder at"):
        dreamer.load("runs/that/do/not/exist")


# An environment in Python


def python_blocks(name):
    """The Python examples of a document."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_of_the_readme_trains_loads_and_acts(tmp_path, monkeypatch):
    """Its own configuration must be one that exists; a tiny one takes its place in training."""
    monkeypatch.chdir(tmp_path)
    compose, composed, config = dreamer.compose, [], tiny_config("toy:copy", steps=4)

    def tiny(*words, **changes):
        composed.append(compose(*words, **changes))
        return config

    monkeypatch.setattr(dreamer, "compose", tiny)
    (example,) = python_blocks("README.md")
    names = {}
    exec(example, names)
    assert len([line for line in example.splitlines() if line and not line.startswith("import")]) <= 8
    assert [config.task for config in composed] == ["dmc:cartpole_balance"]
    assert names["result"].status == "finished" and names["result"].path.name == "b"
    assert names["action"].shape == (1,) and names["carry"].action.shape == (1, 1)
    assert names["values"].shape == (1, 16) and names["decoded"]["cue"].shape[:2] == (1, 16)


def test_the_environment_of_the_document_fits_and_is_trained_in(run_dir):
    definition, _, check = python_blocks("docs/adding_an_env.md")
    names = {"__name__": "thermostat"}
    exec(definition, names)
    exec(check, names)
    result = dreamer.train(
        tiny_config("thermostat", steps=40, **{"loop.eval_every": 100, "env.time_limit": 0}),
        run_dir=run_dir,
        make_env=lambda: gymnasium.wrappers.TimeLimit(names["Thermostat"](), 20),
    )
    assert result.evaluation["eval/length_mean"] == 20 and 0 < result.evaluation["eval/return_mean"] <= 20


def test_an_environment_of_the_users_own_is_trained_and_resumed(run_dir):
    limit = 5

    def make_env():
        return Target(limit)

    whole = dreamer.train(tiny_config("my target", steps=60), run_dir=run_dir / "whole", make_env=make_env)
    assert whole.status == "finished" and 0 < whole.evaluation["eval/length_mean"] <= limit

    parallel = {"env.parallel": "on"}
    dreamer.train(tiny_config("my target", steps=40, **parallel), run_dir=run_dir / "part", make_env=make_env)
    part = dreamer.resume(run_dir / "part", config=tiny_config("my target", steps=60, **parallel), make_env=make_env)
    records = [[record for record in timeless(run.path) if "replay/rows" in record] for run in (whole, part)]
    assert records[0] == records[1]

    agent = dreamer.load(part.path)
    action, _ = agent.act(np.array([0.0, 3.0, 0.0]))  # the only observation needs no name
    assert action.shape == (2,) and np.abs(action).max() <= 1


def test_a_run_whose_environment_fails_goes_on_once_that_is_mended(run_dir):
    class Fragile(Target):
        steps, mended = 0, False

        def step(self, action):
            Fragile.steps += 1
            if Fragile.steps >= 100 and not Fragile.mended:
                raise RuntimeError("the robot fell over")
            return super().step(action)

    config = tiny_config("my target", **{"loop.eval_every": 1000})
    with pytest.raises(
        dreamer.UserError, match=r"environment \d failed 4 times without .*: RuntimeError: the robot fell over$"
    ):
        dreamer.train(config, run_dir=run_dir, make_env=Fragile)
    assert newest(run_dir)["step"] == 120
    assert "Traceback" in (run_dir / "faults" / "environments.log").read_text()
    Fragile.mended = True
    result = dreamer.resume(run_dir, make_env=Fragile)
    assert result.status == "finished" and read(run_dir / "metrics.jsonl")[-1]["step"] == 160


@pytest.mark.parametrize(
    ("make_env", "message"),
    [
        (lambda: Target, "must be a gymnasium.Env"),
        (lambda: "target", "must be a gymnasium.Env"),
        (lambda: gymnasium.make("Blackjack-v1"), "Tuple.* is not supported"),
    ],
)
def test_what_is_no_environment_is_refused_before_anything_is_made(run_dir, make_env, message):
    with pytest.raises(dreamer.UserError, match=message):
        dreamer.train(tiny_config("mine"), run_dir=run_dir, make_env=make_env)
    assert not run_dir.exists()


def test_an_older_run_keeps_its_vectors_for_discrete_observations(run_dir):
    """Its configuration lacks the settings: they take their values from before discrete values were classes."""
    changes = {"env.encoding": "dtype", "loop.eval_episodes": 1, "loop.eval_limit": 2, "steps": 4}
    with unchecked():
        dreamer.train(tiny_config("toy:chain", **changes), run_dir=run_dir)
    config = json.loads((run_dir / "config.json").read_text())
    for name in ("encoding", "extend_limit", "images", "vectors", "kwargs"):
        del config["env"][name]
    (run_dir / "config.json").write_text(json.dumps(config))
    with unchecked():
        resumed = dreamer.resume(run_dir, config=override(open_run(run_dir).config, {"steps": 8}))
    assert resumed.status == "finished" and newest(run_dir)["spec"]["obs_shapes"] == {"observation": (5,)}
    assert json.loads((run_dir / "config.json").read_text())["env"]["encoding"] == "dtype"


def test_a_run_keeps_the_arguments_of_its_environment_and_says_what_is_a_long_vector(run_dir, capsys):
    kwargs = ("map_name=8x8", "is_slippery=False")
    flags = tiny_flags(task="gym:FrozenLake-v1", **{"env.kwargs": kwargs, "steps": 4, "loop.eval_limit": 2})
    with unchecked():
        assert main(["train", *flags, "--run-dir", str(run_dir)]) == 0
    assert open_run(run_dir).config.env.kwargs == kwargs
    assert newest(run_dir)["spec"]["obs_shapes"] == {"observation": (1, 64)}
    assert "is taken as" not in capsys.readouterr().err
    lines = long_vectors(
        Spec({"a": (20 * 20 * 3,), "b": (768, 2), "c": (64, 64, 3), "d": (1000,)}, ActionSpec(1, False))
    )
    assert lines == [
        "observation 'a' is taken as a vector of 1,200 values; --env.images a takes it as an image",
        "observation 'b' is taken as 768 values of 2 classes; --env.images b takes it as an image",
    ]


# An environment registered with Gymnasium


REGISTERING = """
    import gymnasium
    import numpy as np
    from gymnasium import spaces


    class Guess(gymnasium.Env):
        observation_space = spaces.Dict({"hint": spaces.Discrete(3), "left": spaces.Box(0, 9, (1,))})
        action_space = spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.left = 4
            return self.look(), {}

        def step(self, action):
            self.left -= 1
            return self.look(), float(action == self.hint), False, self.left == 0, {}

        def look(self):
            self.hint = int(self.np_random.integers(3))
            return {"hint": self.hint, "left": np.array([self.left], np.float32)}


    gymnasium.register("NAME-v0", Guess)
"""


@pytest.fixture
def registering(tmp_path, monkeypatch, request):
    """The name of a module in the working directory that registers <name>-v0; every test has its own."""
    name = f"guess{abs(hash(request.node.name)) % 10**8}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(REGISTERING).replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("parallel", ["off", "on"])
def test_an_environment_is_registered_by_a_module_of_the_users(registering, run_dir, capsys, parallel):
    flags = tiny_flags(task=f"gym:{registering}-v0", steps=40, **{"env.parallel": parallel})
    assert main(["train", *flags, "--env-import", registering, "--run-dir", str(run_dir)]) == 0
    assert main(["train", "--resume", str(run_dir), "--steps", "60"]) == 0  # it is imported already
    assert main(["evaluate", str(run_dir), "--episodes", "3"]) == 0
    text = capsys.readouterr().out
    assert "over 3 episodes" in text and f"--episodes 20 --env-import {registering}\n" in text
    state = newest(run_dir)
    assert state["spec"]["obs_shapes"] == {"hint": (1, 3), "left": (1,)} and state["spec"]["action"] == [3, True]
    assert state["replay"]["head"] == 30
    lengths = [record["train/length"] for record in read(run_dir / "metrics.jsonl") if "train/length" in record]
    assert lengths and set(lengths) == {4.0}


@pytest.mark.slow
def test_the_module_is_found_by_a_process_started_in_its_folder(registering, run_dir, tmp_path):
    flags = tiny_flags(task=f"gym:{registering}-v0", steps=20, **{"env.parallel": "on"})
    done = dreamer_command("train", *flags, "--env-import", registering, "--run-dir", run_dir, cwd=tmp_path)
    assert done.returncode == 0 and "final evaluation" in done.stdout, done.stderr
    done = dreamer_command("evaluate", run_dir, "--json", cwd=tmp_path)
    assert done.returncode == 2 and f"if you trust it, add --env-import {registering}\n" in done.stderr
    done = dreamer_command("evaluate", run_dir, "--json", "--env-import", registering, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_module_that_fails_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "half_installed.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *tiny_flags(task="gym:Any-v0"), "--env-import", "half_installed"]) == 2
    expected = "dreamer: --env-import half_installed: No module named 'a_package_that_is_missing'\n"
    assert capsys.readouterr().err == expected
