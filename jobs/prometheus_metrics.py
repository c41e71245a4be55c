"""``--prometheus`` and ``--prometheus-file``: the metrics of a build for Prometheus, through its client library.

Names follow Prometheus' conventions: base units, ``_total`` for what only grows. Off unless asked for.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from clipmill import __version__
from clipmill.pipelines.features.limits import worker_seconds
from clipmill.pipelines.features.run_progress import Beat
from clipmill.schemas.errors import EXIT_FAILURE, EXIT_RETRYABLE, ClipmillError, UsageError, describe
from clipmill.schemas.secrets import masked
from clipmill.schemas.task import ShardTask, TaskResult

LOOPBACK = "127.0.0.1"


class BuildMetrics:
    """Observes an engine, and listens to a run's heartbeat.

    Args:
        store, engine: of the run.
        file: rewritten, whole or not at all, at each heartbeat and at the end; None: none.

    Raises:
        UsageError: the client library is not installed.
    """

    def __init__(self, store: str, engine: str, file: str | None = None) -> None:
        try:
            import prometheus_client
        except ImportError:
            remedy = "pip install clipmill[prometheus]"
            got = "no module of that name"
            raise UsageError(describe("option", "--prometheus", "prometheus_client", got, remedy)) from None
        self._client = prometheus_client
        self._file = file
        self.registry = registry = prometheus_client.CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus_client.Counter(f"clipmill_build_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Any:
            return prometheus_client.Gauge(f"clipmill_build_{name}", text, registry=registry)

        about = prometheus_client.Info("clipmill_build", "What is built, on what.", registry=registry)
        about.info({"store": masked(store), "engine": engine, "version": __version__})
        self._tasks = gauge("tasks", "Tasks of the run.")
        self._videos = gauge("videos", "Videos of the run's tasks.")
        self._tasks_done = counter("tasks_done", "Tasks that are done.")
        self._videos_done = counter("videos_done", "Videos that are done, well or not.")
        self._quarantined = counter("videos_quarantined", "Videos put into quarantine.", "reason")
        self._rows = counter("rows", "Rows stored.", "feature")
        self._windows = counter("windows", "Windows through the networks.", "feature")
        self._frames = counter("frames_decoded", "Frames that left the decoder.")
        self._bytes = counter("written_bytes", "Bytes written to the store by tasks.")
        self._retries = counter("storage_retries", "Storage calls of tasks that were made again.")
        self._seconds = counter("stage_seconds", "Time of the workers in done tasks.", "stage")
        self._progress = gauge("progress_ratio", "Share of the estimated work that is done.")
        self._remaining = gauge("remaining_seconds", "Expected time to the end.")
        self._ended = gauge("completion_timestamp_seconds", "When the run ended; 0 while it goes on.")
        self._exit_code = gauge("exit_code", "What the run ended with; -1 while it goes on.")
        self._exit_code.set(-1)
        self._num_done = self._num_in_done_tasks = 0

    def on_start(self, tasks: Sequence[ShardTask]) -> None:
        """All tasks are known."""
        self._tasks.set(len(tasks))
        self._videos.set(sum(len(task.videos) for task in tasks))
        self._write()

    def on_video(self, task: ShardTask, video_id: str) -> None:
        """The heartbeat counts it."""

    def on_task(self, result: TaskResult) -> None:
        """Counts what a task did."""
        self._tasks_done.inc()
        self._num_in_done_tasks += result.num_videos
        self._count_videos(self._num_in_done_tasks)
        reasons = {item.video_id: item.reason for item in result.quarantined}
        for reason in reasons.values():
            self._quarantined.labels(reason).inc()
        for key, count in result.num_rows.items():
            self._rows.labels(key).inc(count)
        for key, count in result.num_windows.items():
            self._windows.labels(key).inc(count)
        self._frames.inc(result.num_frames_decoded)
        self._bytes.inc(result.num_bytes_written)
        self._retries.inc(result.num_storage_retries)
        for stage, seconds in worker_seconds([result]).items():
            self._seconds.labels(stage).inc(seconds)

    def on_beat(self, beat: Beat) -> None:
        """Takes how far the run is, within tasks too."""
        self._count_videos(beat.videos_done)
        self._progress.set(beat.share_done)
        if beat.eta_seconds is not None:
            self._remaining.set(beat.eta_seconds)
        self._write()

    def _count_videos(self, count: int) -> None:
        self._videos_done.inc(max(count - self._num_done, 0))
        self._num_done = max(count, self._num_done)

    def end(self, exit_code: int) -> None:
        """The run ended."""
        self._exit_code.set(exit_code)
        self._ended.set(time.time())
        self._remaining.set(0)
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            self._client.write_to_textfile(self._file, self.registry)
        except OSError as error:  # metrics end no build
            reason, path = error.strerror or type(error).__name__, self._file
            self._file = None
            print(f"note: metrics file {path}: expected to write it, got {reason}; it is left", file=sys.stderr)

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Tells how the run ended where it ends by an error."""
        try:
            yield
        except BaseException as error:
            code = EXIT_RETRYABLE if isinstance(error, KeyboardInterrupt) else EXIT_FAILURE
            self.end(error.exit_code if isinstance(error, ClipmillError) else code)
            raise

    @contextlib.contextmanager
    def served(self, address: str | None) -> Iterator[int]:
        """Serves the metrics over HTTP meanwhile; gives the port, 0 where there is no address.

        Args:
            address: a port, of 127.0.0.1 alone, or ``host:port``.

        Raises:
            UsageError: it is no address, or not free.
        """
        if address is None:
            yield 0
            return
        host, port = _address(address)
        try:
            server, thread = self._client.start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            remedy = "choose another port"
            raise UsageError(describe("option", "--prometheus", "a free address", reason, remedy)) from None
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        remedy = "write --prometheus 9464, or 0.0.0.0:9464 to be reached from elsewhere"
        raise UsageError(describe("option", "--prometheus", "[HOST:]PORT", repr(text), remedy))
    return host.strip("[]") or LOOPBACK, int(port)
