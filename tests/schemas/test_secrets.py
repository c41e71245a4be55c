"""Secrets of URLs: masked wherever one stands, and nothing else touched."""

import io
import json

import pytest

from clipmill.schemas.secrets import MaskedStream, masked

CANARY = "c4n4ry"

URLS = [
    f"https://anna:{CANARY}@host.example/a/b.mp4",
    f"https://{CANARY}@host.example/a/b.mp4",
    f"https://:{CANARY}@host.example/",
    f"s3://key:{CANARY}/with/slash@bucket/a.mp4".replace("/with/slash", ""),
    f"https://b.s3.amazonaws.com/a.mp4?X-Amz-Credential={CANARY}%2Fx&X-Amz-Signature={CANARY}",
    f"https://storage.googleapis.com/b/a.mp4?GoogleAccessId=x&Expires=1&Signature={CANARY}%2B%3D",
    f"https://x.blob.core.windows.net/c/a.mp4?sv=2020&sig={CANARY}/%3D&se=2030",
    f"https://host.example/a.mp4?access_token={CANARY}#t=3",
    f"https://host.example/a.mp4?v=1;api-key={CANARY}",
    f"https://host.example/a.mp4?Policy={CANARY}~&Key-Pair-Id={CANARY}",
    f"ftp://u:{CANARY}%40x@host/f?password={CANARY}",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "frame", ["{}", "video {}: expected a file, got 403; check", "'{}'", '<a href="{}">', "url: {}\nnext: 1", "({}, 2)"]
)
def test_a_secret_is_masked_in_whatever_it_stands(url: str, frame: str) -> None:
    for text in (url, url.replace("&", "&amp;"), json.dumps({"uri": url})):
        found = masked(frame.format(text))
        assert CANARY not in found
        assert "***" in found
        # What tells which file was meant stays, and so does the text around it.
        assert "://" in found
        assert found.startswith(frame.split("{}")[0])
        assert found.endswith(frame.split("{}")[1])
        assert masked(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "https://host.example/a/b.mp4?v=12&t=3s#x",
        "s3://bucket/key/password=1/a.mp4",
        "file:///home/anna@work/a.mp4",
        "a key=3, token=4; mail anna@host.example, signature=yes",
        "var a=1;code=2;passed=3;",
        "https://host.example/@anna/a.mp4",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("before", ["data:image/jpeg;base64,", "https://host/", "https://host/?key="])
@pytest.mark.parametrize("run", ["A", "?key", "://", ":", "?key=:", ".key"])
def test_a_long_run_takes_no_longer_than_its_length(before: str, run: str) -> None:
    """Pictures of a page are megabytes of letters; the time limit of the tests ends what grows faster."""
    masked(f"{before}{run * 200_000}x")


def test_a_stream_masks_what_is_written_to_it() -> None:
    under = io.StringIO()
    stream = MaskedStream(under)
    print(f"to {URLS[0]}", 3, file=stream)  # type: ignore[arg-type]
    stream.writelines([f"{url}\n" for url in URLS])
    stream.flush()
    assert CANARY not in under.getvalue()
    assert under.getvalue().startswith("to https://anna:***@host.example/a/b.mp4 3\n")
