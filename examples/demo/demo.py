"""The whole path on rendered videos: render, build features, train MAP-IVR, evaluate, report.

    python -m examples.demo.demo

The three jobs are the command line's own (``clipmill build|train|evaluate --config examples/demo/*.yaml``), each in a
process of its own as a scheduler would run them. What is already there is not made again.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from examples.demo.render import plan, render
from examples.demo.scenes import CLASSES

ROOT: Final = Path(__file__).resolve().parents[2]
VIDEOS: Final = Path("out/demo/videos")
REPORT: Final = Path("out/demo/report/report.html")
COMPLETE: Final = 0

NEXT: Final = """\
The networks above have random weights: they run and are marked random(0) in every passport, but they have never seen a
video. Read the numbers as a sign that every part works, not as a result.

Next, your own videos, one folder per label:
  .venv/bin/clipmill build examples/demo/build.yaml \\
    --set videos.folder=PATH/TO/VIDEOS --set store.url=out/mine/store --set store.dataset=mine --dry-run
  then without --dry-run, then
  .venv/bin/clipmill train examples/demo/train.yaml --set data.store=out/mine/store --set out=out/mine/run
  .venv/bin/clipmill evaluate examples/demo/evaluate.yaml --set run=out/mine/run --set out=out/mine/report
A complete example with real weights: examples/topics70. Real weights for C3D and VGG-16: README.md, "Weights"."""


def run_step(verb: str) -> int:
    """Returns the exit code of ``clipmill <verb>`` with the demo's config."""
    command = [sys.executable, "-m", "clipmill", verb, "--config", f"examples/demo/{verb}.yaml"]
    print(f"\n== clipmill {' '.join(command[3:])}", flush=True)
    started = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    print(f"   ({time.monotonic() - started:.0f} s)", flush=True)
    return code


def main() -> int:
    """Returns the exit code of the first step that did not complete, or 0."""
    os.chdir(ROOT)
    started = time.monotonic()
    plans = plan()
    rendered = render(VIDEOS, plans)
    state = f"rendered in {time.monotonic() - started:.0f} s" if rendered else "already there"
    print(f"== {len(plans)} labelled videos of {len(CLASSES)} classes in {VIDEOS}: {state}", flush=True)
    for verb in ("build", "train", "evaluate"):
        code = run_step(verb)
        if code != COMPLETE:
            print(f"demo: clipmill {verb} ended with exit code {code}; its last lines say why", file=sys.stderr)
            return code
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes; the largest process used {peak_gib:.1f} GiB.")
    print(f"Report: {REPORT.resolve()}\n\n{NEXT}")
    return COMPLETE


if __name__ == "__main__":
    sys.exit(main())
