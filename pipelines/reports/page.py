"""What every HTML page shares: the template environment, how numbers read, images stored once, a limit of size."""

import base64
import contextlib
import os
from collections.abc import Mapping

import jinja2

from clipmill.pipelines.reports.thumbnails import Thumbnail
from clipmill.schemas.errors import StorageUnavailableError, UsageError, describe
from clipmill.schemas.secrets import masked

MAX_BYTES = 20_000_000


class ImageSheets:
    """Gives each distinct image one CSS class, so that a page holds it once, however often it is shown.

    Attributes:
        sheets: by class, the data URL.
        num_frames: by class, how many equally large frames the image holds side by side.
    """

    def __init__(self) -> None:
        self.sheets: dict[str, str] = {}
        self.num_frames: dict[str, int] = {}
        self._names: dict[bytes, str] = {}

    def name(self, image: Thumbnail | None) -> str:
        """Returns the class of an image, or an empty string where there is none."""
        if image is None or not image.data:
            return ""
        data = image.data
        if data not in self._names:
            name = f"t{len(self._names)}"
            kind = "webp" if data[:4] == b"RIFF" else "jpeg"
            self._names[data] = name
            self.sheets[name] = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            self.num_frames[name] = image.num_frames
        return self._names[data]


class _CompiledTemplates(jinja2.FileSystemBytecodeCache):
    """Templates as Jinja compiled them, in a folder of the user's below that for temporary files.

    Compiling takes a quarter of the evaluation of a small file. A folder that cannot be written costs just that.
    """

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        with contextlib.suppress(OSError):
            super().dump_bytecode(bucket)


def _compiled_templates() -> _CompiledTemplates | None:
    try:
        return _CompiledTemplates()
    except (OSError, RuntimeError):
        return None


def render(template: str, context: Mapping[str, object]) -> str:
    """Returns the template filled in; text from the data never becomes markup, and the secrets of URLs are masked."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipmill.pipelines.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_compiled_templates(),
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["score"] = score_text
    environment.filters["duration"] = duration_text
    environment.filters["clock"] = clock_text
    return masked(environment.get_template(template).render(context))


def write_page(path: str, text: str) -> int:
    """Writes a page in one step and returns its size in bytes.

    Raises:
        UsageError: it would be larger than 20 MB.
        StorageUnavailableError: the file cannot be written.
    """
    data = text.encode()
    if len(data) > MAX_BYTES:
        got, remedy = f"{len(data) / 1e6:.1f} MB", "show fewer examples, or pass smaller thumbnails"
        raise UsageError(describe("report", path, f"at most {MAX_BYTES / 1e6:.0f} MB", got, remedy))
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        got = error.strerror or type(error).__name__
        raise StorageUnavailableError(
            describe("report", path, "a file that can be written", got, "choose another place")
        ) from None
    return len(data)


def score_text(value: float | None) -> str:
    """Returns a metric as ``.357``-like text with its leading zero: three decimals, a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.3f}"


def duration_text(seconds: float) -> str:
    """Returns ``0.4 s``, ``12 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clock_text(seconds: float) -> str:
    """Returns a time within a video: ``0:07.3``, ``12:05.0`` or ``1:02:03.0``."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{tenths / 10:04.1f}"
