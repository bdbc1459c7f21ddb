"""One episode of a task by its expert."""

from __future__ import annotations

from gato_lite.envs.episodes import EpisodeBuilder, Episodes
from gato_lite.envs.experts import AnyEnv, Expert, time_limit
from gato_lite.envs.task import Task


def play_episode(
    task: Task, env: AnyEnv, expert: Expert, builder: EpisodeBuilder, seed: int, limit_s: float | None = None
) -> Episodes:
    """One episode of a task by an expert.

    Args:
        task: The task.
        env: Its environment.
        expert: What acts.
        builder: Gathers the episode.
        seed: The environment's seed.
        limit_s: CPU time that it may take, in seconds; None is the task's own.

    Raises:
        ExpertFailedError: the expert is lost, or took longer than the limit.
        BadEpisodeError: a value is bad.
    """
    total_reward, action = 0.0, None
    terminated = truncated = False
    with time_limit(task.time_limit_s if limit_s is None else limit_s):
        observation, info = env.reset(seed=seed)
        expert.reset()
        builder.start(observation, seed)
        while not (terminated or truncated):
            action = expert.act(observation, action)
            observation, reward, terminated, truncated, info = env.step(action)
            builder.step(action, observation, reward)
            total_reward += float(reward)
    success = task.is_success(total_reward, info)
    return builder.finish(terminated=bool(terminated), truncated=bool(truncated), success=success)
