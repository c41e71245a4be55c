"""Kills builds at random instants until their stores are complete, and counts what is wrong with those then.

    python -m benchmarks.soak [--minutes 5] [--kills 200] [--scenarios local beam ray s3] [--seed 0]

A scenario is an engine and a storage: ``local``, ``beam`` (worker processes) and ``ray`` on a disk, and ``s3``: the
local engine on an S3 server (moto) behind a proxy of which 5 to 20 % of the answers are 503, a reset, half a body, a
stall, or lost. One after the other gets its share of kills and minutes, whichever is used up first; an hour
(``--minutes 60``) is enough for 200 kills on two cores.

In a scenario the same command is run again and again. At an instant drawn evenly over the length of an undisturbed
build, a victim is drawn and killed: the command itself, all of its processes at once (as when a machine goes down), one
of the processes it started, or it is asked to end (SIGTERM). When it has ended with exit code 0 or 3 its store is
complete; then it is compared with the store of one undisturbed build, and the next store begins.

What is counted, and has to be zero:

- lost: (video, recipe) pairs with neither rows nor the reason the undisturbed build gave;
- twice: pairs with more than one commit;
- torn: what `clipmill verify` finds wrong between commits and shards;
- orphans: objects that belong to nothing after `clipmill clean`;
- different: pairs whose values differ by more than rounding; *rounding* is counted apart;
- exits: ends with an exit code other than 0, 3 and 4, or that were not reached within the patience;
- left: processes still there some seconds after the command has ended.

Exit code 1 where one of them is not zero.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clipmill.schemas.errors import (
    EXIT_COMPLETE,
    EXIT_QUARANTINED,
    EXIT_RETRYABLE,
    StorageUnavailableError,
    StoreError,
)
from clipmill.stores import FeatureStore, Store
from clipmill.stores.clean import delete_garbage, find_garbage, shard_of
from clipmill.stores.verify import verify_commits
from tests.encoded_videos import encode_video
from tests.object_storage import BUCKET, Faults, environment, faulty_proxy, s3_server

COUNTS = ("lost", "twice", "torn", "orphans", "different", "exits", "left")
MARK = "CLIPMILL_SOAK"
"""In the environment of a build: by it all of its processes are found, whoever has become their parent."""

ENGINES: Mapping[str, Mapping[str, Any]] = {
    "local": {"name": "local"},
    "beam": {"name": "beam", "runner": "multi_processing", "workers": 2},
    "ray": {"name": "ray", "workers": 2},
    "s3": {"name": "local"},
}
VICTIMS = ("command", "all", "one", "asked")
FAULT_SHARES = (0.05, 0.1, 0.2)
FAULT_KINDS = ("busy", "reset", "truncated", "lost", "stalled")
STALL_SECONDS = 4.0
"""Longer than the three seconds after which the driver gives a read up."""

PATIENCE_SECONDS = 300.0
"""How long a build whose worker was killed, or that was asked to end, may take to end."""

GRACE_SECONDS = 20.0
"""How long processes of a build that has ended may take to notice."""

RELATIVE_ROUNDING = 1e-5
KNOWN_FOLDERS = ("runs", "recipes", "probes", "quarantine", "catalog", "commits", "removed")


@dataclass(slots=True)
class Tally:
    """What a scenario has seen.

    Attributes:
        found: how much is wrong, by kind of `COUNTS`.
        notes: a line for each finding.
    """

    scenario: str
    num_kills: int = 0
    num_runs: int = 0
    num_stores: int = 0
    num_rounding: int = 0
    num_swept: int = 0
    victims: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, number: int, note: str = "") -> None:
        """Counts `number` findings of a kind."""
        self.found[kind] += number
        if number and note:
            self.notes.append(f"{self.scenario} {kind}: {note}")

    def line(self) -> str:
        """Returns the row of the table."""
        counts = " ".join(f"{kind} {self.found[kind]}" for kind in COUNTS)
        victims = ", ".join(f"{kind} {number}" for kind, number in sorted(self.victims.items()))
        faults = f"; faults {sum(self.faults.values()) - self.faults['none']} of {sum(self.faults.values())} requests"
        return (
            f"{self.scenario:<6} kills {self.num_kills} ({victims}) in {self.num_runs} runs, {self.num_stores} stores "
            f"complete{faults if self.faults else ''}: {counts}; rounding {self.num_rounding}, swept {self.num_swept}"
        )


def lay_out(root: Path, num_videos: int) -> Path:
    """Makes a folder of small real videos of three containers, and two files that are none; returns it."""
    folder = root / "videos"
    folder.mkdir(parents=True)
    for number in range(num_videos):
        suffix = ("mp4", "mkv", "avi")[number % 3]
        encode_video(folder / f"video {number:03d}.{suffix}", num_frames=12 + number % 5 * 6, fps=10)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "garbage.mp4").write_bytes(b"\x00\x01garbage" * 500)
    return folder


def write_config(path: Path, videos: Path, url: str, engine: Mapping[str, Any]) -> Path:
    """Writes a build of two recipes in tasks of a few videos each, so that there is much to interrupt."""
    config = {
        "store": {"url": url, "dataset": "soak"},
        "videos": {"folder": str(videos)},
        "features": {
            "frames": {"extractor": "squeezenet", "weights": {"random": 1}, "sampling": {"fps": 5}},
            "clip": {
                "extractor": "squeezenet",
                "layer": "logits",
                "weights": {"random": 2},
                "sampling": {"fps": 2},
                "pooling": "mean",
            },
        },
        "engine": {"device": "cpu", "threads": 1, "task_seconds": 0.1} | dict(engine),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def processes(mark: str) -> list[int]:
    """Returns the ids of the processes whose environment has `mark`, zombies left out."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


def kill(pids: Sequence[int]) -> None:
    """Kills processes of a build of ours."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def strike(process: "subprocess.Popen[bytes]", mark: str, victim: str, rng: random.Random) -> None:
    """Kills the `victim` of a running build."""
    if victim == "asked":
        process.send_signal(signal.SIGTERM)
    elif victim == "all":
        kill(processes(mark))
    else:
        others = sorted(pid for pid in processes(mark) if pid != process.pid)
        kill([rng.choice(others)] if victim == "one" and others else [process.pid])


def run_once(config: Path, env: Mapping[str, str], rng: random.Random, within: float | None, tally: Tally) -> int:
    """Runs the build, kills a victim at an instant within `within` seconds (None: never), and returns its exit code.

    What it says is kept beside the config where the exit code is none it may end with.
    """
    mark = uuid.uuid4().hex
    said = config.with_suffix(".log")
    command = [sys.executable, "-m", "clipmill", "build", "--config", str(config), "--json"]
    victim = rng.choice(VICTIMS)
    with open(said, "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**env, MARK: mark}, start_new_session=True)
    tally.num_runs += 1
    try:
        try:
            process.wait(PATIENCE_SECONDS if within is None else rng.uniform(0, within))
        except subprocess.TimeoutExpired:
            if within is not None:
                tally.num_kills += 1
                tally.victims[victim] += 1
                strike(process, mark, victim, rng)
            process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        tally.add("exits", 1, f"no end {PATIENCE_SECONDS:.0f} s after {victim}: {_end_of(said)}")
    until = time.monotonic() + GRACE_SECONDS
    while (left := processes(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    names = [_name(pid) for pid in left]
    kill(left)
    code = process.wait()
    tally.add("left", len(left), f"{victim}: {', '.join(names)}")
    if code not in (EXIT_COMPLETE, EXIT_QUARANTINED, EXIT_RETRYABLE, -signal.SIGKILL, -signal.SIGTERM):
        tally.add("exits", 1, f"exit code {code} after {victim}: {_end_of(said)}")
    return code


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
    return "(gone)"


def _end_of(said: Path) -> str:
    return said.read_text(errors="replace")[-1500:]


def check(url: str, reference: str) -> dict[str, Any]:
    """Returns what is wrong with the store at `url` against that at `reference`, by kind, and what was swept.

    Deletes what `clipmill clean` would.
    """
    store, features, wanted = Store.open(url), FeatureStore(url), FeatureStore(reference)
    found: Counter[str] = Counter()
    notes: list[str] = []
    reasons = [
        {
            (row["video_id"], recipe): row["reason"]
            for row in opened.quarantine().to_pylist()
            for recipe in row["recipes"]
        }
        for opened in (store, wanted.store)
    ]
    for name in wanted.features:
        recipe = wanted[name].recipe.fingerprint
        for video_id in wanted.videos():
            pair = f"{video_id} {name}"
            if video_id not in wanted[name]:
                if reasons[0].get((video_id, recipe)) != reasons[1][video_id, recipe]:
                    found["lost"] += 1
                    notes.append(f"lost: {pair}: {reasons[0].get((video_id, recipe))}")
            elif name not in features.features or video_id not in features[name]:
                found["lost"] += 1
                notes.append(f"lost: {pair}: {reasons[0].get((video_id, recipe), 'no reason')}")
            else:
                try:
                    kind = compare(features[name][video_id].values, wanted[name][video_id].values)
                except (StoreError, StorageUnavailableError) as error:
                    # (`verify_commits` counts shards, and this their rows: both show in the notes.)
                    kind = "torn"
                    notes.append(f"torn: {pair}: {error}")
                if kind != "same":
                    found[kind] += 1
                    notes.append(f"{kind}: {pair}")
    commits = store.commits(columns=["video_id", "recipe_fingerprint", "shard"])
    pairs = Counter(zip(*(commits.column(name).to_pylist() for name in commits.column_names[:2]), strict=True))
    found["twice"] = sum(number - 1 for number in pairs.values())
    notes += [f"twice: {pair}" for pair, number in pairs.items() if number > 1]
    problems = verify_commits(store)
    found["torn"] += len(problems)
    notes += [f"torn: {problem}" for problem in problems]
    garbage = find_garbage(store)
    delete_garbage(store, garbage)
    named = set(commits.column("shard").to_pylist())
    orphans = [item.path for item in store.objects.find() if not _belongs(item.path, named)]
    found["orphans"] = len(orphans)
    notes += [f"orphan: {path}" for path in orphans]
    return {"found": dict(found), "notes": notes, "num_swept": len(garbage)}


def compare(values: Any, wanted: Any) -> str:
    """Returns ``same``, ``rounding`` or ``different``."""
    if values.shape == wanted.shape and np.array_equal(values, wanted):
        return "same"
    if values.shape != wanted.shape:
        return "different"
    scale = np.maximum(np.linalg.norm(wanted, axis=-1), np.finfo(np.float32).tiny)
    near = np.linalg.norm(values - wanted, axis=-1) <= RELATIVE_ROUNDING * scale
    return "rounding" if near.all() else "different"


def _belongs(path: str, shards: set[str]) -> bool:
    if path == "store.json":
        return True
    first, _, rest = path.partition("/")
    if first == "shards":
        return shard_of(path) in shards
    return first in KNOWN_FOLDERS and bool(rest) and not any(part.startswith(".") for part in path.split("/"))


def soak(
    scenario: str,
    root: Path,
    videos: Path,
    reference: str,
    num_kills: int,
    seconds: float,
    seed: int,
    length_seconds: float | None = None,
) -> Tally:
    """Runs one scenario until `num_kills` kills were made or `seconds` have passed, whichever is first.

    Args:
        length_seconds: of an undisturbed build; None: one is run for it.
    """
    rng = random.Random(f"{seed} {scenario}")
    tally = Tally(scenario)
    until = time.monotonic() + seconds
    with _storage(scenario, root, rng) as (place, envs, faults):
        config = write_config(root / f"{scenario}.yaml", videos, f"{place}/whole", ENGINES[scenario])
        length = length_seconds
        if length is None:
            start = time.monotonic()
            while run_once(config, envs[0], rng, None, tally) not in (EXIT_COMPLETE, EXIT_QUARANTINED):
                if tally.num_runs > 3:
                    return tally
            length = time.monotonic() - start
            _count(tally, f"{place}/whole", reference, envs[1])
        while tally.num_kills < num_kills and time.monotonic() < until:
            url = f"{place}/{tally.num_stores}"
            write_config(config, videos, url, ENGINES[scenario])
            code = None
            while code not in (EXIT_COMPLETE, EXIT_QUARANTINED):
                if faults is not None:
                    faults.share = rng.choice(FAULT_SHARES)
                # Out of time, the store is still completed: it is what is to be looked at.
                is_over = tally.num_kills >= num_kills or time.monotonic() > until
                code = run_once(config, envs[0], rng, None if is_over else length, tally)
                if tally.found["exits"] > 3:
                    return tally
            _count(tally, url, reference, envs[1])
        if faults is not None:
            tally.faults = faults.counts
    return tally


def _count(tally: Tally, url: str, reference: str, env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--check", url, reference]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(env), timeout=PATIENCE_SECONDS, check=False)
    if done.returncode != 0:
        tally.add("torn", 1, f"the store cannot be checked: {done.stderr[-1500:]}")
        return
    result = json.loads(done.stdout)
    tally.num_stores += 1
    tally.num_swept += result["num_swept"]
    tally.num_rounding += result["found"].pop("rounding", 0)
    tally.found.update(result["found"])
    tally.notes += [f"{tally.scenario} {url}: {note}" for note in result["notes"] if not note.startswith("rounding")]


@contextlib.contextmanager
def _storage(
    scenario: str, root: Path, rng: random.Random
) -> Iterator[tuple[str, tuple[dict[str, str], dict[str, str]], Faults | None]]:
    """Yields where stores go, the environments of builds and of checks, and the faults of the way to it."""
    if scenario != "s3":
        yield str(root / scenario), (dict(os.environ), dict(os.environ)), None
        return
    faults = Faults(FAULT_SHARES[0], FAULT_KINDS, rng.randrange(1 << 30), STALL_SECONDS)
    with s3_server() as endpoint, faulty_proxy(endpoint, faults) as proxy:
        yield f"s3://{BUCKET}/soak", (environment(proxy), environment(endpoint)), faults


def main() -> None:
    """Prints the table and the findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--scenarios", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", nargs=2, metavar=("STORE", "REFERENCE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        print(json.dumps(check(*options.check)))
        return
    tallies = []
    with tempfile.TemporaryDirectory(prefix="clipmill-soak-") as name:
        root = Path(name)
        videos = lay_out(root, options.videos)
        clean = Tally("clean")
        config = write_config(root / "clean.yaml", videos, str(root / "clean"), ENGINES["local"])
        code = run_once(config, os.environ, random.Random(0), None, clean)
        if code != EXIT_QUARANTINED or clean.found.total():
            sys.exit(f"the undisturbed build ended with {code}: {_end_of(config.with_suffix('.log'))}")
        share = len(options.scenarios)
        for scenario in options.scenarios:
            tallies.append(
                soak(
                    scenario,
                    root,
                    videos,
                    str(root / "clean"),
                    -(-options.kills // share),
                    options.minutes * 60 / share,
                    options.seed,
                )
            )
            print(tallies[-1].line(), flush=True)
            for note in tallies[-1].notes:
                print(f"  {note}", flush=True)
    total = sum((tally.found for tally in tallies), Counter[str]())
    print(
        f"{sum(tally.num_kills for tally in tallies)} kills: " + ", ".join(f"{kind} {total[kind]}" for kind in COUNTS)
    )
    sys.exit(1 if total.total() else 0)


if __name__ == "__main__":
    main()
