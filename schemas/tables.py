"""Arrow schemas of every table that is written down."""

import pyarrow as pa

FORMAT_VERSION = 1

CLIP = pa.struct(
    [
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("stop_seconds", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
    ]
)

SEGMENT = pa.struct(
    [
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("stop_seconds", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("score", pa.float64()),
    ]
)

HEADER = pa.struct(
    [
        pa.field("container", pa.string(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("rotation_degrees", pa.int32(), nullable=False),
        pa.field("duration_seconds", pa.float64()),
        pa.field("average_fps", pa.float64()),
        pa.field("num_frames", pa.int64()),
    ]
)

PASSPORT = pa.struct(
    [
        pa.field("clipmill_version", pa.string()),
        pa.field("weights", pa.string()),
        pa.field("weights_sha256", pa.string()),
        pa.field("decoder", pa.string()),
        pa.field("decoder_version", pa.string()),
        pa.field("decoder_fallback_reason", pa.string()),
        pa.field("device", pa.string()),
        pa.field("precision", pa.string()),
        pa.field("num_threads", pa.int32()),
        pa.field("batch_windows", pa.int32()),
        pa.field("torch_version", pa.string()),
        pa.field("numpy_version", pa.string()),
        pa.field("opencv_version", pa.string()),
        pa.field("duration_seconds", pa.float64()),
        pa.field("num_frames", pa.int64()),
        pa.field("num_frames_substituted", pa.int64()),
        pa.field("num_tail_windows_dropped", pa.int64()),
        pa.field("num_tail_windows_padded", pa.int64()),
        pa.field("values_sha256", pa.string()),
        pa.field("header_duration_seconds", pa.float64()),
        pa.field("header_num_frames", pa.int64()),
        pa.field("truncated", pa.string()),
        pa.field("num_joined_parts", pa.int32()),
        pa.field("num_repeated_times", pa.int64()),
        pa.field("scaler_flags", pa.string()),
        pa.field("first_frame_seconds", pa.float64()),
        pa.field("num_segments_clamped", pa.int64()),
        pa.field("num_segments_emptied", pa.int64()),
        pa.field("flow_files_digest", pa.string()),
        pa.field("runtime", pa.string()),
        pa.field("runtime_version", pa.string()),
        pa.field("runtime_error", pa.float64()),
    ]
)
"""`duration_seconds` and `num_frames` are the packet scan's; those with ``header_`` are what the header claimed.
`truncated` says what shows that the video breaks off, and is null where nothing does. `scaler_flags` are libswscale's,
where the video has more than 8 bits. `first_frame_seconds` is where the video begins on the container's clock, on which
all times of a store are. The fields from `header_duration_seconds` on are null in commits of earlier versions.
`flow_files_digest` covers the flow images the rows were made from, and is null where there were none.
`runtime` ran the network in place of PyTorch, which is null; `runtime_error` is how far off PyTorch's float32 it was
measured to be on the machine that made the rows (`clipmill.extractors.runtime`).

`values_sha256` covers the video's rows as stored (little-endian bytes of its values): what `verify` checks.
Nothing in a passport depends on when, by which engine or on which try a row was made, so commits are reproducible."""

COMMITS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("video_fingerprint", pa.string(), nullable=False),
        pa.field("clips_fingerprint", pa.string(), nullable=False),
        pa.field("recipe_fingerprint", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row_start", pa.int64(), nullable=False),
        pa.field("row_stop", pa.int64(), nullable=False),
        pa.field("clips", pa.list_(CLIP), nullable=False),
        pa.field("passport", PASSPORT, nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("video_fingerprint", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("recipes", pa.list_(pa.string()), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("released", pa.bool_(), nullable=False),
    ]
)
"""`recipes` holds recipe fingerprints. A later row with ``released`` true puts the video back (requeue)."""

VIDEO_IDS = pa.schema([pa.field("video_id", pa.string(), nullable=False)])
"""Of a whole manifest, where a run was given a share of it."""

REMOVED = pa.schema(
    [pa.field("video_id", pa.string(), nullable=False), pa.field("video_fingerprint", pa.string(), nullable=False)]
)
"""What `clipmill remove` took out: the video and the bytes it had then."""

FILE_DIGEST = pa.struct(
    [pa.field("recipe", pa.string(), nullable=False), pa.field("digest", pa.string(), nullable=False)]
)
"""Of the files beside a video that a recipe reads."""

MANIFEST = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("video_fingerprint", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("segments", pa.list_(SEGMENT), nullable=False),
        pa.field("duration_seconds", pa.float64()),
        pa.field("average_fps", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("container", pa.string()),
        pa.field("codec", pa.string()),
        pa.field("rotation_degrees", pa.int32()),
        pa.field("num_frames", pa.int64()),
        pa.field("stream", pa.string()),
        pa.field("file_digests", pa.list_(FILE_DIGEST)),
    ]
)
"""The columns from `duration_seconds` to `num_frames` are the header's claims; all null where the file was not probed.
`stream` is the video stream that was asked for, if one was."""

PROBES = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64(), nullable=False),
        pa.field("video_fingerprint", pa.string(), nullable=False),
        pa.field("header", HEADER),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
    ]
)
"""What planning has once read of a file: either `header`, or why there is none (`stage`, `reason`, `message`)."""

STANDARD_ROW_COLUMNS = ("values", "clip", "start_seconds", "stop_seconds", "mask")


def rows_schema(dim: int, dtype: str, extras: dict[str, str]) -> pa.Schema:
    """Returns the schema of a Parquet feature shard.

    Args:
        dim: length of one row's values.
        dtype: ``float32``, ``float16`` or ``uint8``.
        extras: further per-row columns an extractor declares, name to numpy dtype name (one number per row).
    """
    value_type = pa.from_numpy_dtype(dtype)
    fields = [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("clip", pa.int32(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("stop_seconds", pa.float64(), nullable=False),
        pa.field("mask", pa.bool_(), nullable=False),
        pa.field("values", pa.list_(pa.field("item", value_type, nullable=False), dim), nullable=False),
    ]
    fields += [pa.field(name, pa.from_numpy_dtype(kind), nullable=False) for name, kind in sorted(extras.items())]
    return pa.schema(fields)
