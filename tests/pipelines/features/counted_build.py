"""A build that counts what it decodes, loads and reads, and prints it if this file is run.

``python tests/pipelines/features/counted_build.py CONFIG``
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from clipmill.extractors import registry
from clipmill.pipelines.decode.session import DecodeRequest, DecodeSession, Event
from clipmill.pipelines.features import probing
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.schemas.recipe import Recipe


def counted(path: str) -> dict[str, Any]:
    """Runs the build of a config in this process."""
    decoded: Counter[str] = Counter()
    read: Counter[str] = Counter()
    loaded: list[str] = []
    run, make, fingerprint = DecodeSession.run, registry.build, probing.video_fingerprint

    def run_counting(
        self: DecodeSession, requests: Iterable[DecodeRequest | None], at_a_time: int | None = None
    ) -> Iterator[Event]:
        def each() -> Iterator[DecodeRequest | None]:
            for request in requests:
                if request is not None:
                    decoded[Path(request.path).name] += 1
                yield request

        return run(self, each(), at_a_time)

    def counted_make(recipe: Recipe, *rest: Any) -> Any:
        loaded.append(recipe.name)
        return make(recipe, *rest)

    def counted_fingerprint(path: str, stream: str | None) -> str:
        read[Path(path).name] += 1
        return fingerprint(path, stream)

    with (
        patch.object(DecodeSession, "run", run_counting),
        patch.object(registry, "build", counted_make),
        patch.object(probing, "video_fingerprint", counted_fingerprint),
    ):
        report = build(parse_build_config(Path(path).read_text()))
    return {
        "decoded": dict(decoded),
        "loaded": sorted(loaded),
        "read": dict(read),
        "num_rows": sum(report.num_rows.values()),
        "exit_code": report.exit_code,
        "torch": "torch" in sys.modules,
        "decoders": sorted({"decord", "av"} & sys.modules.keys()),
    }


if __name__ == "__main__":
    print(json.dumps(counted(sys.argv[1])))
