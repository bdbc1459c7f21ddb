from __future__ import annotations

from gato_lite.names import unknown_name


def test_the_closest_comes_first() -> None:
    known = ["classic/CartPole", "classic/Pendulum", "toy/Taxi"]
    assert unknown_name("task", "CartPol", known) == (
        "Unknown task 'CartPol'. Did you mean classic/CartPole? Known: classic/CartPole, classic/Pendulum, toy/Taxi"
    )
    assert "Did you mean toy/Taxi?" in unknown_name("task", "TOY/TAXI", known)


def test_nothing_is_close_and_nothing_is_known() -> None:
    assert unknown_name("recipe", "xyz", ["quick", "demo"]) == "Unknown recipe 'xyz'. Known: demo, quick"
    assert unknown_name("recipe", "xyz", []) == "Unknown recipe 'xyz'. Known: none"


def test_a_long_list_is_cut() -> None:
    message = unknown_name("task", "q", [f"task{n:03d}" for n in range(100)])
    assert message.endswith("task039, … (100 in all)")
