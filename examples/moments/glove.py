"""Writes the GloVe vectors of Charades-STA's words as text in GloVe's format.

    python examples/moments/glove.py ../shared/data/text out/moments/glove.charades.txt

The folder holds DRN's table (``glove300_charades.pt``, GloVe 6B, 300 numbers a word) and its words
(``Charades_word2id.json``). Words whose row is zero have no vector there, and are left out. Any file in GloVe's own
format, such as ``glove.6B.300d.txt``, does as well.
"""

import argparse
import json
from pathlib import Path

import torch


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    positions = json.loads((given.folder / "Charades_word2id.json").read_text("utf-8"))
    table = torch.load(given.folder / "glove300_charades.pt", map_location="cpu", weights_only=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for word, position in positions.items():
        row = table[position].tolist()
        if any(row) and " " not in word:
            lines.append(f"{word} {' '.join(f'{value:.6g}' for value in row)}\n")
    given.out.write_text("".join(lines), "utf-8")
    print(f"{len(lines)} of {len(positions)} words: {given.out}")


if __name__ == "__main__":
    main()
