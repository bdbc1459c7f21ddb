"""What other generalists reached, as they published it, to be shown beside our scores of the same tasks.

Sources: Gallouédec et al. 2024, "Jack of All Trades, Master of Some, a Multi-Purpose Transformer Agent" (JAT): the
model card of jat-project/jat (expert-normalised total reward of each task); Reed et al. 2022, "A Generalist Agent"
(GATO): section 4.1 and figure 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gato_lite.envs.catalogue import by_suite

if TYPE_CHECKING:
    from gato_lite.train.scores import Scores

JAT_SOURCE: Final = "Gallouédec et al. 2024 (JAT), model card of jat-project/jat"
GATO_SOURCE: Final = "Reed et al. 2022 (GATO), section 4.1 and figure 5"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One suite."""

    jat: Mapping[str, float]
    """JAT's mean expert-normalised total reward of each task, by `plain_name`."""
    jat_iqm: float
    """Its interquartile mean over the episodes of all of these."""
    differs: str
    """What differs between its protocol and ours."""
    gato: str
    """What GATO's paper says of the suite; empty where it gives no number."""


def plain_name(task: str) -> str:
    """A task's name by which suites agree: without suite, version, capitals and signs."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-v\d+$", "", task.rpartition("/")[2]).lower())


def shared_tasks(suite: str, published: Published, scores: Scores) -> list[str]:
    """Tasks of a suite that both were scored on."""
    return [
        name
        for name in by_suite(scores.tasks).get(suite, [])
        if scores.tasks[name].normalised is not None and plain_name(name) in published.jat
    ]


def _scores(text: str) -> dict[str, float]:
    """`name score name score …` as a dictionary."""
    words = text.split()
    return {name: float(score) for name, score in zip(words[::2], words[1::2], strict=True)}


PUBLISHED: Final[dict[str, Published]] = {
    "babyai": Published(
        jat=_scores(
            "actionobjdoor 0.88 blockedunlockpickup 1.00 bosslevelnounlock 0.49 bosslevel 0.54 findobjs5 1.00 "
            "gotodoor 1.00 gotoimpunlock 0.60 gotolocal 0.93 gotoobjdoor 0.98 gotoobj 1.01 gotoredballgrey 1.00 "
            "gotoredballnodists 1.00 gotoredball 0.98 gotoredblueball 0.99 gotoseq 0.76 goto 0.82 keycorridor 0.96 "
            "minibosslevel 0.56 movetwoacrosss8n9 0.05 onerooms8 1.00 opendoor 1.00 opendoorsordern4 0.96 "
            "openreddoor 1.00 opentwodoors 1.00 open 0.99 pickupabove 1.01 pickupdist 1.02 pickuploc 0.92 pickup 0.85 "
            "putnextlocal 0.73 putnexts7n4 0.89 synthloc 0.78 synthseq 0.58 synth 0.78 unblockpickup 0.86 "
            "unlocklocal 1.00 unlockpickup 1.00 unlocktounlock 0.88 unlock 0.48"
        ),
        jat_iqm=0.99,
        differs=(
            "JAT scores the reward, which falls with the steps taken, we the share of levels solved; its expert is the "
            "BabyAI bot, ours the catalogue's"
        ),
        gato="above 80 % of the expert on nearly all levels",
    ),
    "metaworld": Published(
        jat=_scores(
            "assembly 0.99 basketball 0.00 binpicking 0.74 boxclose 0.93 buttonpresstopdownwall 0.51 "
            "buttonpresstopdown 0.52 buttonpresswall 0.90 buttonpress 0.97 coffeebutton 0.43 coffeepull 0.13 "
            "coffeepush 0.30 dialturn 0.95 disassemble 0.22 doorclose 1.00 doorlock 0.81 dooropen 0.99 "
            "doorunlock 0.94 drawerclose 0.54 draweropen 0.98 faucetclose 0.23 faucetopen 0.96 hammer 0.98 "
            "handinsert 0.94 handlepressside 0.01 handlepress 0.79 handlepullside 0.37 handlepull 0.77 leverpull 0.34 "
            "peginsertside 0.97 pegunplugside 0.26 pickoutofhole 0.00 pickplacewall 0.14 pickplace 0.74 "
            "plateslidebackside 0.94 plateslideback 0.24 plateslideside 0.16 plateslide 0.84 pushback 0.84 "
            "pushwall 0.28 push 0.78 reachwall 0.89 reach 0.37 shelfplace 0.25 soccer 0.82 stickpull 0.70 "
            "stickpush 0.14 sweepinto 0.89 sweep 0.01 windowclose 0.54 windowopen 0.97"
        ),
        jat_iqm=0.65,
        differs=(
            "JAT scores the shaped reward of 500 steps between random actions and agents trained for each task, we the "
            "share of successes between random actions and scripted policies"
        ),
        gato="44 of 45 tasks above 50 % of the expert, 3 above 90 %",
    ),
    "mujoco": Published(
        jat=_scores(
            "ant 0.86 inverteddoublependulum 0.94 halfcheetah 0.89 hopper 0.77 humanoid 0.09 invertedpendulum 0.24 "
            "pusher 1.00 reacher 1.00 humanoidstandup 0.33 swimmer 1.02 walker2d 0.95"
        ),
        jat_iqm=0.85,
        differs=(
            "JAT's experts are agents trained by reinforcement learning, ours controllers, linear policies and small "
            "networks: a score of 1 is another return there"
        ),
        gato="",
    ),
}
"""By suite; none where nobody published scores that could stand beside ours."""
