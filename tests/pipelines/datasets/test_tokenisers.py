"""Words as the publications cut them: counts of the real annotations that others published, and NLTK's tokens."""

import json
from pathlib import Path

import pytest

from clipmill.pipelines.datasets.text import LGI_MARKS, Vocabulary
from clipmill.pipelines.datasets.tokenisers import lgi_words, treebank_words


def sentences_of(folder: Path, part: str) -> list[str]:
    lines = (folder / f"charades_sta_{part}.txt").read_text("utf-8").splitlines()
    return [line.split("##", 1)[1] for line in lines]


def test_charades_sta_has_the_words_that_lgi_has(shared_data: Path) -> None:
    folder = shared_data / "annotations" / "charades_sta"
    training, test = ([lgi_words(text) for text in sentences_of(folder, part)] for part in ("train", "test"))
    vocabulary = Vocabulary.by_alphabet(training)
    assert len(training) == 12408
    assert len(test) == 3720
    assert len(vocabulary.words) == 1136 + len(LGI_MARKS)
    assert max(map(len, training)) == 10
    unseen = [word for text in test for word in text if word not in vocabulary.words]
    assert (len(set(unseen)), len(unseen)) == (174, 199)
    # Ids from 4 on, by alphabet; 0 fills up, 1 is an unknown word.
    coded = vocabulary.rows([("a", "zzz", vocabulary.words[2])], 5)
    assert coded.values.tolist() == [2 + vocabulary.words.index("a"), 1, 4]


def test_activitynet_has_the_words_that_lgi_has(shared_data: Path) -> None:
    videos = json.loads((shared_data / "annotations" / "activitynet_captions" / "train.json").read_text("utf-8"))
    words = {word for video in videos.values() for text in video["sentences"] for word in lgi_words(text)}
    # LGI's split at single spaces makes the empty string its 11,121st word.
    assert len(words) == 11120


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What nltk 3.9's NLTKWordTokenizer makes of each, in lower case.
        ("A person opens the door.", "a person opens the door ."),
        ("The man's dog doesn't, can't and won't bark!", "the man 's dog does n't , ca n't and wo n't bark !"),
        ('He says "yes" (twice); 3,000 times at 10:30...', "he says `` yes '' ( twice ) ; 3,000 times at 10:30 ..."),
        ("they cannot; they're gonna go -- now", "they can not ; they 're gon na go -- now"),
        ("First. Then the second one.", "first . then the second one ."),
        ("the dogs' bowls", "the dogs ' bowls"),
        ("", ""),
    ],
)
def test_treebank_tokens_are_nltks(text: str, expected: str) -> None:
    assert treebank_words(text) == tuple(expected.split())
