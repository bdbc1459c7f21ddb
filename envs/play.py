"""One episode of a task by its expert."""

from __future__ import annotations

from gato_lite.envs.catalogue import Task, reported_success
from gato_lite.envs.episodes import EpisodeBuilder, Episodes
from gato_lite.envs.experts import AnyEnv, Expert, time_limit


def play_episode(
    task: Task, env: AnyEnv, expert: Expert, builder: EpisodeBuilder, seed: int, limit_s: float | None = None
) -> Episodes:
    """One episode of a task by an expert.

    A task with `stop_after_success` is cut so many steps after its first success, and keeps that it succeeded.

    Args:
        task: The task.
        env: Its environment.
        expert: What acts.
        builder: Gathers the episode.
        seed: The environment's seed.
        limit_s: Longest time in seconds; None is the task's own.

    Raises:
        ExpertFailedError: the expert is lost, or took longer than the limit.
        BadEpisodeError: a value is bad.
    """
    total_reward, action = 0.0, None
    steps_left = task.stop_after_success
    """Steps until the episode is cut, from its first success on; None where it is never cut."""
    succeeded = terminated = truncated = False
    with time_limit(task.time_limit_s if limit_s is None else limit_s):
        observation, info = env.reset(seed=seed)
        expert.reset()
        builder.start(observation, seed)
        while not (terminated or truncated):
            action = expert.act(observation, action)
            observation, reward, terminated, truncated, info = env.step(action)
            builder.step(action, observation, reward)
            total_reward += float(reward)
            if steps_left is not None:
                steps_left -= succeeded
                succeeded = succeeded or bool(reported_success(info))
                truncated = truncated or (succeeded and steps_left == 0 and not terminated)
    success = succeeded or task.is_success(total_reward, info)
    return builder.finish(terminated=bool(terminated), truncated=bool(truncated), success=success)
