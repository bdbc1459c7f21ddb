import numpy as np
import pytest

from gato_lite.envs.dataset import Dataset
from gato_lite.train.pictures import decode_picture
from gato_lite.train.ship import DATA
from gato_lite.train.ship_emoji import STYLES, TWINS, Concept, emoji_documents, hidden_styles


@pytest.fixture(scope="module")
def shipped():
    return Dataset.open(DATA / "emoji").read_documents()


def concepts(n):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (n, 2, 32, 32, 3), np.uint8)
    return [Concept(f"thing {i}", dict(zip(STYLES, pictures[i], strict=True))) for i in range(n)]


def hidden_of(many):
    return hidden_styles([concept.name for concept in many], [concept.pictures for concept in many])


def test_a_fifth_of_the_concepts_has_one_style_hidden():
    hidden = hidden_of(concepts(100))
    assert len(hidden) == 20
    assert sorted(hidden.values()) == ["noto"] * 10 + ["twemoji"] * 10


def test_twins_share_their_fate():
    many = concepts(100)
    first = next(iter(hidden_of(many)))
    twin = (first + 50) % 100
    almost = many[first].pictures["noto"].copy()
    almost[0, 0] ^= 1
    many[twin] = many[twin]._replace(pictures={**many[twin].pictures, "noto": almost})
    hidden = hidden_of(many)
    assert hidden.get(first) == hidden.get(twin)


def test_documents_hold_a_row_a_picture():
    rows = emoji_documents(concepts(10))
    assert len(rows) == 20
    assert sum(row.split == "test" for row in rows) == 2
    assert decode_picture(rows[0].image).shape == (32, 32, 3)


def test_every_shipped_concept_was_seen_in_the_other_style(shipped):
    train = {(row.text, row.group) for row in shipped if row.split == "train"}
    test = {(row.text, row.group) for row in shipped if row.split == "test"}
    assert len(train) + len(test) == len(shipped) == 2368
    assert len(test) == 237
    other = dict(zip(STYLES, reversed(STYLES), strict=True))
    assert all((name, group) not in train and (name, other[group]) in train for name, group in test)


def test_no_shipped_test_picture_has_a_twin_among_the_training_pictures(shipped):
    def pixels(split):
        rows = [decode_picture(row.image).reshape(-1) for row in shipped if row.split == split]
        return np.stack(rows).astype(np.float32) / 255

    train, test = pixels("train"), pixels("test")
    squares = (test**2).sum(1)[:, None] + (train**2).sum(1) - 2 * test @ train.T
    assert squares.min() / train.shape[1] > TWINS**2 * 0.999


def test_shipped_names_are_short_and_plain(shipped):
    names = {row.text for row in shipped}
    assert len(names) == 1184
    assert all(name == name.lower().strip() and 0 < len(name.split()) <= 8 for name in names)
    assert not [name for name in names if "flag:" in name or "o'clock" in name or "skin tone" in name]
