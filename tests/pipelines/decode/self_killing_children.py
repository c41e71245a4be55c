"""Children that are killed by SIGKILL at the moment they begin to read a file, the first so many times of each kind."""

import os
from pathlib import Path

import pytest

_SITE = """
import os, signal, sys

FOLDER, TIMES = {folder!r}, {times}

def kill_at_first_reads(event, arguments):
    if event != "open" or not str(arguments[0]).endswith((".mp4", ".mkv")):
        return
    names, frame = set(), sys._getframe()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    kinds = {{"read_timeline": "timeline", "read_header": "header"}}
    kind = next((kinds[name] for name in kinds if name in names), None)
    if kind is None:
        return
    for number in range(TIMES):
        try:
            # One of many processes that begin the same file makes it.
            name = f"{{os.path.basename(arguments[0])}}.{{kind}}.{{number}}"
            os.close(os.open(f"{{FOLDER}}/{{name}}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)

if "clipmill.pipelines.decode.fork_server" in sys.orig_argv:
    sys.addaudithook(kill_at_first_reads)
"""


def kill_readers(folder: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> Path:
    """Has children started from now on be killed `times` times for each file and kind of reading.

    Returns:
        A folder with one entry for each that was killed, named by file, kind (``header``, ``timeline``) and number.
    """
    site, killed = folder / "site", folder / "killed"
    site.mkdir()
    killed.mkdir()
    (site / "sitecustomize.py").write_text(_SITE.format(folder=str(killed), times=times))
    search = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(search))
    return killed
