from __future__ import annotations

import signal
import threading
import time

import gymnasium as gym
import pytest

from gato_lite.envs import experts
from gato_lite.envs.experts import ExpertFailedError, RandomExpert, Rule, time_limit, value_iteration


def test_a_hanging_expert_is_stopped():
    def hang():
        with time_limit(0.05):
            while True:
                pass

    with pytest.raises(ExpertFailedError, match=r"longer than its limit of 0\.05 s of CPU time$"):
        hang()


def test_a_waiting_expert_is_stopped_only_by_the_clock(monkeypatch):
    with time_limit(0.05):
        time.sleep(0.3)  # as an episode on a busy machine
    monkeypatch.setattr(experts, "WALL_PER_CPU", 2.0)
    with (
        pytest.raises(ExpertFailedError, match=r"limit of 0\.05 s of CPU time, 0\.1 s by the clock$"),
        time_limit(0.05),
    ):
        time.sleep(10)


@pytest.mark.parametrize("number, timer", [("SIGPROF", "ITIMER_PROF"), ("SIGALRM", "ITIMER_REAL")])
def test_the_limit_ends_with_its_block(number, timer):
    number, timer = getattr(signal, number), getattr(signal, timer)
    before = signal.getsignal(number)
    with time_limit(0.05):
        assert signal.getitimer(timer)[0] > 0
    assert signal.getitimer(timer) == (0.0, 0.0)
    assert signal.getsignal(number) == before


def test_no_limit_outside_the_main_thread():
    done = []

    def work():
        with time_limit(0.01):
            time.sleep(0.03)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_random_actions_come_from_the_seed():
    env = gym.make("CartPole-v1")
    first = [RandomExpert(env, 5).act(None, None) for _ in range(3)]
    draws = RandomExpert(env, 5)
    again = [draws.act(None, None) for _ in range(20)]
    assert first == [again[0]] * 3
    assert set(again) == {0, 1}


def test_a_rule_sees_the_observation_alone():
    rule = Rule(lambda observation: observation + 1)
    rule.reset()
    assert rule.act(3, previous_action=None) == 4


def test_value_iteration_finds_the_shortest_way():
    env = gym.make("FrozenLake-v1", is_slippery=False)
    policy = value_iteration(env)
    observation, _ = env.reset(seed=0)
    for step in range(1, 7):
        observation, reward, *_ = env.step(policy.act(observation, None))
        assert reward == (step == 6)
