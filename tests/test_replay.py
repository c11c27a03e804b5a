"""Replay: sampled is what was appended, every legal window equally often, and a checkpoint brings it all back."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections import Counter

import numpy as np
import pytest
import torch
from older import older_state
from running import forked
from scipy.stats import chisquare

from dreamer.batch import ROW_SCALARS, Row
from dreamer.errors import UserError
from dreamer.experience.layout import RowLayout
from dreamer.experience.replay import Positions, Replay, ReplayConfig
from dreamer.experience.ring import GROWTH

LAYOUT = RowLayout(obs_shapes={"where": (2,), "noise": (3,)}, action_dim=2, packed_dim=4)
EPISODE = 7
LENGTH = 4


def make_replay(path, *, rows=30, streams=2, batch=8, online=False, slack=10, seed=0, kept=1, layout=LAYOUT):
    config = ReplayConfig(capacity=rows * streams, online=online)
    return Replay(config, path, layout, streams, batch, LENGTH, slack, seed, kept)


def row_at(position, streams):
    """Row `position` of every stream: it names its place, and the rest is noise that only this place has."""
    rng = np.random.default_rng(position)
    where = np.stack([np.arange(streams), np.full(streams, position)], -1).astype(np.float32)
    step = position % EPISODE
    return Row(
        obs={"where": where, "noise": rng.standard_normal((streams, 3)).astype(np.float32)},
        prev_action=(rng.standard_normal((streams, 2)) * (step > 0)).astype(np.float32),
        reward=(rng.standard_normal(streams) * 1e3).astype(np.float32),
        is_first=np.full(streams, step == 0),
        is_last=np.full(streams, step == EPISODE - 1),
        is_terminal=np.arange(streams) == (position if step == EPISODE - 1 else -1) % streams,
    )


def state_at(position, streams, version=0.0):
    return np.array([[stream, position, version, -position] for stream in range(streams)], np.float32)


def feed(replay, count):
    """Append the next `count` rows of every stream."""
    streams = replay.num_streams
    for _ in range(count):
        position = replay.ring.head
        replay.append(row_at(position, streams), state_at(position, streams))


def places(batch):
    """(stream, position) of every sampled row, two arrays `[batch, time]`."""
    stream, position = batch.obs["where"].numpy().astype(int).transpose(2, 0, 1)
    return stream, position


def stored_state(replay, stream, position):
    ring = replay.ring
    return ring.newest(np.array([position % ring.size]), np.array([stream]))[0]


def contents(replay):
    """Everything that can be read: (records, states) of each stream's readable rows."""
    snapshot = []
    ring = replay.ring
    positions = range(max(0, ring.head - replay.capacity), ring.head)
    for stream in range(replay.num_streams):
        records = [ring.rows[position % ring.size, stream].tobytes() for position in positions]
        snapshot.append((records, [stored_state(replay, stream, position).tobytes() for position in positions]))
    return snapshot


# Sampling


@pytest.mark.parametrize("rows", [17, 30, 95])
def test_every_legal_start_is_drawn_equally_often(tmp_path, rows):
    """Pitfall 11: uniform over legal starts, at every fill of the ring."""
    replay = make_replay(tmp_path, streams=3, batch=16)
    feed(replay, rows)
    oldest = max(0, rows - 30)
    legal = {(stream, start) for stream in range(3) for start in range(oldest + 1, rows - LENGTH + 1)}
    assert replay.num_starts == len(legal)
    drawn = Counter()
    for _ in range(400):
        _, positions = replay.sample()
        drawn.update(zip(positions.stream.tolist(), positions.start.tolist(), strict=True))
    assert set(drawn) == legal
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_windows_are_consecutive_at_every_fill_and_across_wraps(tmp_path):
    """Pitfalls 11 and 12: no window crosses the ring's seam or mixes streams."""
    replay = make_replay(tmp_path, batch=16)
    feed(replay, LENGTH + 1)
    for head in range(LENGTH + 1, 130):
        batch, positions = replay.sample()
        stream, position = places(batch)
        assert (stream == positions.stream[:, None]).all()
        assert (position == positions.start[:, None] + np.arange(LENGTH)).all()
        assert positions.start.min() - 1 >= max(0, head - 30) and position.max() < head
        feed(replay, 1)


def test_every_row_is_trained_on_and_the_last_one_too(tmp_path):
    """Pitfall 13: an exclusive upper bound would leave out the newest row."""
    replay = make_replay(tmp_path, batch=16)
    feed(replay, 100)
    trained = set()
    for _ in range(60):
        trained |= set(zip(*(axis.ravel().tolist() for axis in places(replay.sample()[0])), strict=True))
    assert trained == {(stream, position) for stream in range(2) for position in range(71, 100)}


def test_sampled_values_are_exactly_the_appended_ones(tmp_path):
    """Pitfalls 14 and 15: nothing is rounded, and no flag of a training row is forced."""
    replay = make_replay(tmp_path, batch=16)
    feed(replay, 77)
    for _ in range(8):
        batch, _ = replay.sample()
        assert {value.dtype for value in batch.obs.values()} == {torch.float32}
        assert batch.reward.dtype == batch.prev_action.dtype == torch.float32
        assert batch.is_first.dtype == batch.is_last.dtype == batch.is_terminal.dtype == torch.bool
        for (i, t), stream in np.ndenumerate(places(batch)[0]):
            appended = row_at(int(batch.obs["where"][i, t, 1]), 2)
            for key, value in appended.obs.items():
                assert (batch.obs[key][i, t].numpy() == value[stream]).all()
            for name in (*ROW_SCALARS, "prev_action"):
                assert (getattr(batch, name)[i, t].numpy() == getattr(appended, name)[stream]).all(), name


def test_context_is_the_state_of_the_row_before(tmp_path):
    replay = make_replay(tmp_path, batch=16)
    feed(replay, 77)
    batch, positions = replay.sample()
    expected = [state_at(start - 1, 2)[stream] for stream, start in zip(positions.stream, positions.start, strict=True)]
    assert (batch.context.numpy() == np.array(expected)).all()


def test_an_episode_that_was_cut_off_ends_where_the_next_one_begins(tmp_path):
    replay = make_replay(tmp_path, streams=1, batch=16)
    for position in range(12):
        row = row_at(position, 1)
        cut = Row(row.obs, row.prev_action, row.reward, np.array([position in (0, 5)]), *np.zeros((2, 1), bool))
        replay.append(cut, state_at(position, 1))
    seen = set()
    for _ in range(30):
        batch, _ = replay.sample()
        _, position = places(batch)
        inside = np.arange(LENGTH) < LENGTH - 1  # what follows the last row of a window is not known
        assert (batch.is_last.numpy() == (position == 4) & inside).all()
        assert (batch.is_first.numpy() == (position == 5)).all()
        assert not batch.is_terminal.any()
        seen |= set(position.ravel().tolist())
    assert seen == set(range(1, 12))


def test_too_little_experience_is_an_error_and_not_a_short_window(tmp_path):
    replay = make_replay(tmp_path)
    feed(replay, LENGTH)
    assert replay.num_starts == 0
    with pytest.raises(ValueError, match="no sequence of 4 rows"):
        replay.sample()
    feed(replay, 1)
    assert replay.num_starts == 2
    assert (replay.sample()[1].start == 1).all()


def test_two_replays_with_one_seed_draw_the_same_and_another_seed_differs(tmp_path):
    draws = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        replay = make_replay(tmp_path / name, seed=seed)
        feed(replay, 40)
        draws.append([tuple(replay.sample()[1].start) for _ in range(5)])
    assert draws[0] == draws[1] != draws[2]


# The online queue


def test_the_newest_windows_come_first_and_cover_every_row_once(tmp_path):
    replay = make_replay(tmp_path, batch=3, online=True, rows=100)
    trained = Counter()
    for round_ in range(12):
        feed(replay, LENGTH if round_ else LENGTH + 1)
        batch, positions = replay.sample()
        # One window of each stream is new, the third is drawn.
        assert positions.start[:2].tolist() == [1 + LENGTH * round_] * 2 and set(positions.stream[:2]) == {0, 1}
        trained.update(zip(*(axis[:2].ravel().tolist() for axis in places(batch)), strict=True))
    assert trained == {(stream, position): 1 for stream in range(2) for position in range(1, 1 + 12 * LENGTH)}


def test_queued_windows_wait_for_their_turn_and_stale_ones_are_skipped(tmp_path):
    replay = make_replay(tmp_path, streams=1, batch=2, online=True, rows=30)
    feed(replay, 21)
    starts = [replay.sample()[1].start.tolist() for _ in range(2)]
    assert starts == [[1, 5], [9, 13]]
    feed(replay, 100)  # heads at 121: rows before 91 are gone
    fresh = []
    while replay.queue:
        fresh += replay.sample()[1].start.tolist()
    assert fresh[:7] == list(range(93, 120, LENGTH))
    assert all(start > 91 for start in replay.sample()[1].start)


def test_a_checkpoint_keeps_the_queue_and_where_it_goes_on(tmp_path):
    replay = make_replay(tmp_path, batch=2, online=True, rows=100)
    feed(replay, 18)  # four positions of each stream, and one row more than they need
    replay.sample()
    again = make_replay(tmp_path, batch=2, online=True, rows=100)
    again.load_state_dict(replay.state_dict())
    drawn = []
    for each in (replay, again):
        starts = [each.sample()[1].start.tolist() for _ in range(3)]
        feed(each, 3)
        drawn.append([*starts, each.sample()[1].start.tolist()])
    assert drawn[0] == drawn[1] == [[5, 5], [9, 9], [13, 13], [17, 17]]


def test_without_the_queue_nothing_is_preferred(tmp_path):
    replay = make_replay(tmp_path, online=False)
    feed(replay, 60)
    assert not replay.queue


# Writing states back


def test_write_back_replaces_the_states_of_the_trained_rows_alone(tmp_path):
    """Pitfall 16: state t of a window belongs to its training row t, and neighbors keep theirs."""
    replay = make_replay(tmp_path, batch=2)
    feed(replay, 77)
    positions = Positions(np.array([0, 1]), np.array([60, 50]))
    packed = np.arange(2 * LENGTH * 4, dtype=np.float32).reshape(2, LENGTH, 4) + 0.5
    replay.write_states(positions, packed)
    for stream in range(2):
        for position in range(47, 77):
            step = position - positions.start[stream]
            expected = packed[stream, step] if 0 <= step < LENGTH else state_at(position, 2)[stream]
            assert (stored_state(replay, stream, position) == expected).all(), (stream, position)


def test_a_written_state_is_the_context_of_the_next_row(tmp_path):
    """Pitfall 16: the context row is the one before the first training row."""
    replay = make_replay(tmp_path)
    feed(replay, 40)
    replay.write_states(Positions(np.array([1]), np.array([20])), np.full((1, LENGTH, 4), 9.0, np.float32))
    fresh = 0
    for _ in range(40):
        batch, positions = replay.sample()
        written = (positions.stream == 1) & (positions.start - 1 >= 20) & (positions.start - 1 < 24)
        assert ((batch.context.numpy() == 9.0).all(-1) == written).all()
        fresh += written.sum()
    assert fresh > 0


@pytest.mark.parametrize("appended", [3, 13, 45])
def test_write_back_skips_rows_that_are_gone(tmp_path, appended):
    """Pitfall 16: a row that has been overwritten meanwhile is another row."""
    replay = make_replay(tmp_path, streams=1, batch=1)
    feed(replay, 77)
    positions = Positions(np.array([0]), np.array([48]))
    feed(replay, appended)  # the oldest readable row is now 47 + appended
    replay.write_states(positions, np.full((1, LENGTH, 4), -1.0, np.float32))
    for position in range(47 + appended, 77 + appended):
        written = 48 <= position < 48 + LENGTH
        assert (stored_state(replay, 0, position) == (-1.0 if written else state_at(position, 1)[0])).all(), position


# Checkpoints


def churn(replay, rng, rows):
    """What training does: append, sample, write back; keeps within what the checkpoint allows."""
    for _ in range(rows):
        assert not replay.must_commit
        feed(replay, 1)
        if replay.num_starts:
            _, positions = replay.sample()
            shape = (len(positions.start), LENGTH, 4)
            replay.write_states(positions, rng.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("online", [False, True])
def test_a_checkpoint_sees_its_rows_and_states_whatever_came_after(tmp_path, online):
    rng = np.random.default_rng(0)
    replay = make_replay(tmp_path, online=online)
    wraps = 0
    for cycle in range(14):
        churn(replay, rng, 9)
        saved, before = replay.state_dict(), contents(replay)
        replay.commit()
        expected = [replay.sample()[1].start.tolist() for _ in range(3)]
        churn(replay, rng, 10 if cycle % 2 else 4)
        replay = make_replay(tmp_path, online=online, seed=99)  # the process died; these are its files
        replay.load_state_dict(saved)
        assert contents(replay) == before
        assert [replay.sample()[1].start.tolist() for _ in range(3)] == expected
        wraps = replay.ring.head // replay.ring.size
    assert wraps >= 3


def test_a_crash_between_saving_and_committing_loses_nothing(tmp_path):
    rng = np.random.default_rng(0)
    replay = make_replay(tmp_path)
    churn(replay, rng, 10)
    replay.state_dict()
    replay.commit()
    churn(replay, rng, 10)
    saved, before = replay.state_dict(), contents(replay)
    again = make_replay(tmp_path)
    again.load_state_dict(saved)
    assert contents(again) == before


@pytest.mark.parametrize("safe", [0, 1, 4])
def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, safe):
    """Nothing depends on when a checkpoint becomes safe: `safe` rows after it was begun, or at once in the twin."""
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    replay, twin = make_replay(tmp_path / "replay", online=True), make_replay(tmp_path / "twin", online=True)
    older = None
    for _ in range(20):
        churn(replay, rng, 9 - 2 * safe)
        churn(twin, same, 9 - 2 * safe)
        saved, before = replay.state_dict(), contents(replay)
        twin.state_dict()
        twin.commit()
        churn(replay, rng, safe)
        churn(twin, same, safe)
        assert contents(replay) == contents(twin)
        if older is not None:  # the process dies before the checkpoint is safe, or just after
            again = make_replay(tmp_path / "replay", online=True)
            again.load_state_dict(older[0])
            assert contents(again) == older[1]
        again = make_replay(tmp_path / "replay", online=True)
        again.load_state_dict(saved)
        assert contents(again) == before
        replay.commit()
        again.load_state_dict(saved)
        assert contents(again) == before
        assert contents(replay) == contents(twin)
        older = saved, before
    assert replay.ring.head // replay.ring.size >= 2


def test_states_wait_in_memory_only_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamer.experience.replay.WAITING_BYTES", 3 * LENGTH * 16)
    replay = make_replay(tmp_path)
    feed(replay, 50)
    replay.state_dict()
    replay.commit()
    replay.state_dict()
    positions = Positions(np.array([0, 0]), np.array([25, 35]))
    for wanted in (False, True):
        replay.write_states(positions, np.ones((2, LENGTH, 4), np.float32))
        assert replay.must_commit is wanted
    replay.commit()
    assert not replay.must_commit and (stored_state(replay, 0, 35) == 1).all()


def test_every_kept_checkpoint_keeps_its_rows(tmp_path):
    rng = np.random.default_rng(0)
    replay = make_replay(tmp_path, kept=2)
    saved = []
    for _ in range(10):
        churn(replay, rng, 10)
        saved.append((replay.state_dict(), contents(replay)))
        replay.commit()
    churn(replay, rng, 10)
    assert replay.must_commit and replay.ring.head > 2 * replay.ring.size
    for state, before in saved[-2:]:
        again = make_replay(tmp_path, kept=2)
        again.load_state_dict(state)
        assert [rows for rows, _ in contents(again)] == [rows for rows, _ in before]


def test_a_commit_is_asked_for_before_a_needed_row_is_overwritten(tmp_path):
    replay = make_replay(tmp_path, slack=10)
    feed(replay, 50)
    replay.state_dict()
    replay.commit()
    feed(replay, 9)
    assert not replay.must_commit
    replay.state_dict()
    feed(replay, 1)
    assert replay.must_commit, "what is not safe yet protects nothing"
    replay.commit()
    assert not replay.must_commit
    feed(replay, 8)
    assert not replay.must_commit
    feed(replay, 1)
    assert replay.must_commit, "the rows that came while the checkpoint was written count"


def test_a_checkpoint_of_another_layout_is_refused(tmp_path):
    replay = make_replay(tmp_path)
    feed(replay, 10)
    saved = replay.state_dict()
    other = make_replay(tmp_path / "other", layout=RowLayout({"where": (2,), "noise": (4,)}, 2, 4))
    with pytest.raises(UserError, match=r"noise 3.*noise 4"):
        other.load_state_dict(saved)


@pytest.mark.parametrize("suffix", ["rows", "states"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_files_that_do_not_fit_the_checkpoint_are_refused(tmp_path, suffix, damage):
    replay = make_replay(tmp_path)
    feed(replay, 35)
    saved = replay.state_dict()
    file = tmp_path / f"{suffix}.bin"
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(UserError, match=rf"{suffix}\.bin is missing or shorter"):
        make_replay(tmp_path).load_state_dict(saved)


# Files


def test_many_environments_take_few_file_descriptors_and_little_disk(tmp_path):
    """Each environment once had two maps with a descriptor each, and a common limit is 1024."""

    def feed_many():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        replay = make_replay(tmp_path, streams=600, rows=10_000)
        feed(replay, 2 * LENGTH)
        stream, position = places(replay.sample()[0])
        assert (np.diff(position) == 1).all() and (np.diff(stream) == 0).all()
        return str(sum(file.stat().st_size for file in tmp_path.iterdir()))

    code, size = forked(feed_many)
    assert code == 0 and int(size) <= 2 * 16 * GROWTH * sum(LAYOUT.row_bytes)


@pytest.mark.parametrize("rows", [10, 35, 130])
def test_replay_of_an_older_version_is_joined(tmp_path, rows):
    """Two files for every environment become two in all, and are kept while a checkpoint may need them."""
    rng = np.random.default_rng(0)
    replay = make_replay(tmp_path, online=True, kept=2)
    for _ in range(rows // 5):
        replay.state_dict()
        replay.commit()
        churn(replay, rng, 5)
    saved, before = replay.state_dict(), contents(replay)
    expected = [replay.sample()[1].start.tolist() for _ in range(3)]
    older = older_state(tmp_path, saved, LAYOUT)
    for _ in range(2):  # the first process dies before it has saved anything
        for file in replay.ring.files:
            file.unlink()
        replay = make_replay(tmp_path, online=True, kept=2, seed=99)
        replay.load_state_dict(older)
        assert contents(replay) == before
        assert [replay.sample()[1].start.tolist() for _ in range(3)] == expected
        churn(replay, rng, 5)
    for _ in range(2):
        assert len(list(tmp_path.glob("stream_*"))) == 4
        for _ in range(2):  # the same step saved twice is one checkpoint
            replay.state_dict()
            replay.commit()
        churn(replay, rng, 1)
    saved = replay.state_dict()
    replay.commit()
    assert not list(tmp_path.glob("stream_*"))
    before = contents(replay)
    again = make_replay(tmp_path, online=True, kept=2)
    again.load_state_dict(saved)
    assert contents(again) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"heads": [10, 11]}, "step together"),
        ({"heads": [10]}, "step together"),
        ({"heads": [-1, -1]}, "whole numbers"),
        ({"next_online": [1, 2]}, "step together"),
        ({"live": [torch.zeros(0, dtype=torch.uint8)] * 2}, "live slots"),
        ({"live": [torch.zeros(8, dtype=torch.uint8)]}, "live slots"),
        ({}, r"stream_001\.states is missing or shorter"),
    ],
)
def test_a_damaged_replay_of_an_older_version_is_refused(tmp_path, damage, message):
    replay = make_replay(tmp_path)
    feed(replay, 10)
    older = older_state(tmp_path, replay.state_dict(), LAYOUT)
    if not damage:
        os.truncate(tmp_path / "stream_001.states", 100)
    with pytest.raises((UserError, ValueError), match=message):
        make_replay(tmp_path).load_state_dict(older | damage)


def test_files_grow_in_steps_up_to_the_ring_and_keep_their_rows(tmp_path):
    replay = make_replay(tmp_path, rows=2 * GROWTH, streams=1, slack=100)
    sizes = set()
    bare = Row({"where": np.zeros((1, 2)), "noise": np.zeros((1, 3))}, np.zeros((1, 2)), *np.zeros((4, 1)))
    for position in range(2 * GROWTH + 150):
        bare.obs["where"][0, 1] = bare.reward[0] = position
        replay.append(bare, state_at(position, 1))
        sizes.add(tuple(file.stat().st_size for file in replay.ring.files))
    rows, states = LAYOUT.row_bytes
    ring = 2 * GROWTH + 100
    assert sorted(sizes) == [(rows * count, states * count) for count in (GROWTH, 2 * GROWTH, ring)]
    for _ in range(20):
        batch, positions = replay.sample()
        assert (places(batch)[1] == positions.start[:, None] + np.arange(LENGTH)).all()
        assert (batch.context[:, 1].numpy() == positions.start - 1).all()


def fill_disk(path, limit=None):
    """Append in a process of its own until the disk is full; returns the rows that were kept."""

    def fill():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        replay = Replay(ReplayConfig(), path, RowLayout({"x": (8,)}, 8, 16), 1, 1, LENGTH, 10, 0)
        row = Row({"x": np.zeros((1, 8))}, np.zeros((1, 8)), *np.zeros((4, 1)))
        with contextlib.suppress(UserError):
            while True:
                replay.append(row, np.ones((1, 16)))
        with pytest.raises(UserError) as caught:  # and again, if the caller insists
            replay.append(row, np.ones((1, 16)))
        return f"{replay.rows} {caught.value}"

    code, answer = forked(fill)
    assert code == 0, "a signal or an unexpected exception"
    rows, _, message = answer.partition(" ")
    assert message.startswith("cannot reserve ") and str(path) in message and "\n" not in message
    return int(rows)


def test_a_file_size_limit_is_an_error_and_not_a_signal(tmp_path):
    # One block of 4096 states fits, a second one does not.
    assert fill_disk(tmp_path, 1_000_000) == GROWTH


def test_a_full_disk_is_an_error_and_not_a_signal(tmp_path):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "none", str(tmp_path)], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a tmpfs; the file size limit is tested without")
    try:
        assert fill_disk(tmp_path) == GROWTH
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_sampling_is_fast(tmp_path):
    """Meant: under 2 ms for 16 x 64 rows of walker_walk at size 1m. Asserted: five times that, for slow machines."""
    layout = RowLayout({"height": (1,), "orientations": (14,), "velocity": (9,)}, 6, 640)
    replay = Replay(ReplayConfig(online=False), tmp_path, layout, 4, 16, 64, 100, 0)
    row = Row(
        {key: np.zeros((4, *shape)) for key, shape in layout.obs_shapes.items()}, np.zeros((4, 6)), *np.zeros((4, 4))
    )
    for _ in range(1500):
        replay.append(row, np.zeros((4, 640)))
    seconds = []
    for _ in range(40):
        begin = time.perf_counter()
        replay.sample()
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.010
