"""A canary in the URLs of a build: it must come out nowhere."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from tests.command_line import ROOT, clipmill, invoke, refused
from tests.encoded_videos import encode_video

CANARY = "c4n4ry"


def test_a_secret_of_a_url_reaches_no_outlet(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", 10, 10)
    # Nothing listens there.
    secret = f"http://anna:{CANARY}@127.0.0.1:1/gone.mp4?v=1&X-Amz-Signature={CANARY}&token={CANARY}"
    (tmp_path / "videos.csv").write_text(f"id,uri\na.mp4,a.mp4\ngone.mp4,{secret}\n")
    config = {
        "store": {"url": str(tmp_path / "store")},
        "videos": {"manifest": str(tmp_path / "videos.csv")},
        "features": {"squeezenet": {"weights": {"random": 0}, "sampling": {"fps": 1}}},
        "engine": {"device": "cpu"},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(config))
    built = clipmill("build", "--config", str(tmp_path / "build.yaml"))
    shown = [built.stdout, built.stderr]
    shown += [invoke("status", str(tmp_path / "store")).stdout]
    shown += [path.read_text() for path in (tmp_path / "store" / "runs").rglob("*.html")]
    assert built.returncode == 3, built.stderr
    assert not any(CANARY in text for text in shown)
    [quarantine] = (tmp_path / "store" / "quarantine").glob("*.parquet")
    [row] = pq.read_table(quarantine).to_pylist()
    assert row["video_id"] == "gone.mp4"
    assert row["uri"] == "http://anna:***@127.0.0.1:1/gone.mp4?v=1&X-Amz-Signature=***&token=***"
    assert CANARY not in str(row)


def test_too_many_open_files_are_one_line_and_worth_another_try(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", 10, 10)
    few = 24

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))

    code = (
        "import os\nheld = []\n"
        "from clipmill.jobs.output import run_verb\n"
        "def verb():\n    while True:\n        held.append(open(os.devnull))\n"
        "run_verb(verb, False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=limit,
        timeout=280,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines() == [
        "clipmill: open files: expected room for one more, got Too many open files; raise the limit (ulimit -n 4096)"
    ]


def test_a_config_that_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    for number, text in enumerate(("[" * 5000 + "]" * 5000, "{a: " * 5000 + "1" + "}" * 5000)):
        path = tmp_path / f"{number}.yaml"
        path.write_text("store: " + text)
        refused(invoke("build", "--config", str(path)), "expected YAML, got one too deeply nested; correct the file")
