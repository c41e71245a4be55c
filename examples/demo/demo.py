"""The whole path on rendered videos: render, build features, train, evaluate, report.

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

from examples.demo import clips
from examples.demo.render import plan, render
from examples.demo.scenes import CLASSES

ROOT: Final = Path(__file__).resolve().parents[2]
VIDEOS: Final = Path("out/demo/videos")
REPORT: Final = Path("out/demo/report/report.html")
COMPLETE: Final = 0

NEXT: Final = """\
The networks have random weights, and every passport says so: what they see of a frame is colours, edges and coarse
movement. That is enough for the scenes drawn here and for no others.

Next, your own videos with a network that was trained: examples/own_videos."""


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
    print("\n== python -m examples.demo.clips", flush=True)
    clips.main()
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes; the largest process used {peak_gib:.1f} GiB.")
    print(f"Report: {REPORT.resolve()}\n\n{NEXT}")
    return COMPLETE


if __name__ == "__main__":
    sys.exit(main())
