"""Writes features in which the moments of Charades-STA's sentences can be found: made, not looked at.

    python examples/moments/planted.py ../shared/data/annotations/charades_sta out/moments/planted

Real videos, sentences and times; the vectors are made of them. A sentence has a direction: the sum of one random
direction for each of its words, the rarer the longer. A step has the directions of the sentences whose moment it lies
in, or else that of a sentence of another video, for as long as some moment lasts; always of length 1, so that nothing
but its sentence tells a moment from the rest; and noise. The layout is VSLNet's: ``<video>.npy float32[n, D]`` and
``feature_shapes.json``; besides, ``manifest.csv`` for ``clipmill import``, the annotations of these videos
(``train.txt``, ``test.txt``), and ``test_shuffled.txt``, whose sentences are those of other lines.
"""

import argparse
import csv
import hashlib
import json
import math
import string
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

_DELETED = str.maketrans("", "", string.punctuation)


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps-per-second", type=float, default=1.0)
    parser.add_argument("--noise", type=float, default=0.35, help="standard deviation of each number; a direction is 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the videos, by a hash of their ids")
    parser.add_argument("--vectors", type=Path, help="word vectors: a word's direction is a random turn of its own")
    given = parser.parse_args()
    durations = json.loads((given.annotations / "charades.json").read_text("utf-8"))
    moments = defaultdict(list)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for part in lines:
        for line in (given.annotations / f"charades_sta_{part}.txt").read_text("utf-8").splitlines():
            head, _, sentence = line.partition("##")
            video, start, stop = head.split()
            if not _is_chosen(video, given.share):
                continue
            lines[part].append(f"{head}##{sentence}\n")
            moments[video].append((float(start), float(stop), tuple(sentence.lower().translate(_DELETED).split())))
    counts = Counter(word for found in moments.values() for _, _, words in found for word in set(words))
    lengths = [stop - start for found in moments.values() for start, stop, _ in found]
    everything = [words for found in moments.values() for _, _, words in found]
    directions = {word: _direction(word, given.dim, given.seed) for word in counts}
    if given.vectors is not None:
        directions |= _turned(given.vectors, set(counts), given.dim, given.seed)
    weight = {word: math.log(len(everything) / count) for word, count in counts.items()}
    given.out.mkdir(parents=True, exist_ok=True)
    shapes = {}
    chosen = sorted(moments)
    _write_annotations(given.out, lines, given.seed)
    with (given.out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "duration_seconds"])
        for video in chosen:
            found = moments[video]
            duration = float(durations[video]["duration"])
            random = np.random.default_rng(_number(f"{given.seed} {video}"))
            num_steps = max(2, round(duration * given.steps_per_second))
            values = np.zeros((num_steps, given.dim))
            middles = (np.arange(num_steps) + 0.5) * duration / num_steps
            covered = np.zeros(num_steps, bool)
            for start, stop, words in found:
                inside = (middles >= start) & (middles < stop)
                values[inside] += _sum(words, directions, weight)
                covered |= inside
            begin = 0.0
            while begin < duration:
                end = begin + max(1.0, lengths[random.integers(len(lengths))])
                inside = (middles >= begin) & (middles < end) & ~covered
                values[inside] = _sum(everything[random.integers(len(everything))], directions, weight)
                begin = end
            values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
            values += given.noise * random.normal(size=values.shape)
            np.save(given.out / f"{video}.npy", values.astype(np.float32))
            shapes[video] = num_steps
            table.writerow([video, duration])
    (given.out / "feature_shapes.json").write_text(json.dumps(shapes), "utf-8")
    print(f"{len(shapes)} videos, {sum(shapes.values())} steps of {given.dim} numbers: {given.out}")


def _is_chosen(video: str, share: float) -> bool:
    return _number(f"share {video}") < share * 2**64


def _write_annotations(out: Path, lines: dict[str, list[str]], seed: int) -> None:
    """Writes those of the chosen videos, and the test's with sentences that belong to other lines."""
    heads, sentences = zip(*(line.split("##", 1) for line in lines["test"]), strict=True)
    order = np.random.default_rng(seed).permutation(len(sentences))
    shuffled = [f"{head}##{sentences[row]}" for head, row in zip(heads, order.tolist(), strict=True)]
    for name, found in {**lines, "test_shuffled": shuffled}.items():
        (out / f"{name}.txt").write_text("".join(found), "utf-8")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _direction(word: str, dim: int, seed: int) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(_number(f"{seed} word {word}")).normal(size=dim)
    return found / float(np.linalg.norm(found))


def _turned(vectors: Path, words: set[str], dim: int, seed: int) -> dict[str, np.ndarray]:
    found = {}
    with vectors.open(encoding="utf-8") as file:
        for line in file:
            word, *numbers = line.split(" ")
            if word in words:
                found[word] = np.array(numbers, np.float64)
    turn = np.random.default_rng(seed).normal(size=(len(next(iter(found.values()))), dim))
    mean = np.mean(list(found.values()), axis=0)  # Common to all words, so it tells none apart.
    turned = {word: (vector - mean) @ turn for word, vector in found.items()}
    return {word: vector / np.linalg.norm(vector) for word, vector in turned.items()}


def _sum(words: tuple[str, ...], directions: dict[str, np.ndarray], weight: dict[str, float]) -> np.ndarray:
    found: np.ndarray = np.sum([weight[word] * directions[word] for word in words], axis=0)
    return found / max(float(np.linalg.norm(found)), 1e-9)


if __name__ == "__main__":
    main()
