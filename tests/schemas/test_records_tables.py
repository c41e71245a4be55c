"""Records, rows, tasks and the Arrow schemas: what is written can be read, and keys depend on what they should."""

import pickle
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.schemas import tables
from clipmill.schemas.errors import ClipmillError, UsageError, VideoError, describe, near
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.records import Clip, Quarantined, Segment, Video
from clipmill.schemas.rows import Rows, concatenate
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, clips_fingerprint


def recipe(name: str = "c3d", layer: str = "fc6") -> Recipe:
    return Recipe(
        name=name,
        extractor="c3d",
        extractor_version=1,
        layer=layer,
        dim=4,
        weights=Weights(source="random(0)", seed=0, card="c"),
        sampling=Sampling(frames=16),
        preprocess=Preprocess(),
        clips=ClipRule(),
    )


def rows(num_rows: int, first: int = 0) -> Rows:
    values = np.arange(first, first + num_rows * 2, dtype=np.float32).reshape(num_rows, 2)
    times = np.arange(num_rows, dtype=np.float64)
    return Rows(
        values,
        np.zeros(num_rows, np.int32),
        times,
        times + 1,
        np.ones(num_rows, np.bool_),
        {"score": np.arange(num_rows, dtype=np.float32)},
    )


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Clip(0, 0.0, 1.0).index = 1  # type: ignore[misc]


def test_rows_slices_and_concatenation_keep_every_column() -> None:
    whole = concatenate([rows(3), rows(0), rows(2, first=6)])
    assert len(whole) == 5
    np.testing.assert_array_equal(whole.values, np.arange(10, dtype=np.float32).reshape(5, 2))
    part = whole.slice(2, 4)
    assert len(part) == 2
    np.testing.assert_array_equal(part.values, whole.values[2:4])
    np.testing.assert_array_equal(part.start_seconds, [2, 0])
    np.testing.assert_array_equal(part.extras["score"], [2, 0])


def test_concatenating_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one part"):
        concatenate([])


VIDEO = Video("a/b c.mp4", "file.mp4", fingerprint="11" * 16, num_bytes=5)


def test_a_task_key_is_a_function_of_videos_bytes_clips_and_recipes() -> None:
    task = ShardTask((VIDEO,), (recipe(), recipe("vgg", "fc7")))
    same = [
        replace(task, num_windows_estimated=9, cost_estimated=3.0),
        replace(task, recipes=task.recipes[::-1]),
        replace(task, recipes=(recipe("renamed"), recipe("vgg", "fc7"))),
        replace(task, videos=(replace(VIDEO, uri="moved.mp4", label="walk", split="test"),)),
    ]
    assert {item.key for item in same} == {task.key}
    assert len(task.key) == 16
    segment = Segment(0.0, 1.0, "walk")
    other = [
        replace(task, recipes=task.recipes[:1]),
        replace(task, videos=(replace(VIDEO, id="b"),)),
        replace(task, videos=(replace(VIDEO, fingerprint="22" * 16),)),
        replace(task, videos=(replace(VIDEO, segments=(segment,)),)),
        replace(task, videos=(VIDEO, replace(VIDEO, id="b"))),
        replace(task, videos=(replace(VIDEO, id="b"), VIDEO)),
    ]
    assert len({item.key for item in [task, *other]}) == len(other) + 1


def test_clips_fingerprint_covers_times_and_not_labels() -> None:
    assert clips_fingerprint(VIDEO) == ""

    def of(segments: Sequence[Segment]) -> str:
        return clips_fingerprint(replace(VIDEO, segments=tuple(segments)))

    assert of([Segment(0, 1, "a", 0.5)]) == of([Segment(0, 1, "b")])
    assert of([Segment(0, 1)]) != of([Segment(0, 2)])
    assert of([Segment(0, 1), Segment(2, 3)]) != of([Segment(2, 3), Segment(0, 1)])


def test_a_run_counts_the_tasks_it_executed() -> None:
    results = (TaskResult("a", True, 1), TaskResult("b", False, 1), TaskResult("c", True, 2))
    assert RunReport("local", 3, results, 1.0).num_executed == 2


QUARANTINE_ROW = {
    "run_id": "r",
    "video_id": "видео/a b.mp4",
    "video_fingerprint": "11" * 16,
    "uri": "u",
    "recipes": ["22" * 16],
    "stage": "probe",
    "reason": "not_a_video",
    "message": "m",
    "attempts": 2,
    "released": False,
}
PASSPORT_ROW = {field.name: None for field in tables.PASSPORT} | {"decoder": "decord", "num_frames": 30}
COMMIT_ROW = {
    "video_id": "a",
    "video_fingerprint": "11" * 16,
    "clips_fingerprint": "",
    "recipe_fingerprint": "22" * 16,
    "shard": "shards/c3d-1/x.zarr",
    "row_start": 0,
    "row_stop": 3,
    "clips": [{"start_seconds": 0.0, "stop_seconds": 1.5, "label": None}],
    "passport": PASSPORT_ROW,
}
MANIFEST_ROW: dict[str, object] = {field.name: None for field in tables.MANIFEST} | {
    "video_id": "a",
    "uri": "a.mp4",
    "video_fingerprint": "11" * 16,
    "num_bytes": 1,
    "label": None,
    "split": "train",
    "segments": [{"start_seconds": 0.0, "stop_seconds": 1.0, "label": "x", "score": None}],
    "duration_seconds": 2.0,
    "average_fps": None,
    "width": 4,
    "height": 2,
}


@pytest.mark.parametrize(
    ("schema", "row"),
    [(tables.QUARANTINE, QUARANTINE_ROW), (tables.COMMITS, COMMIT_ROW), (tables.MANIFEST, MANIFEST_ROW)],
    ids=["quarantine", "commits", "manifest"],
)
def test_a_table_survives_parquet(schema: pa.Schema, row: dict[str, object]) -> None:
    table = pa.Table.from_pylist([row], schema=schema)
    table.validate(full=True)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    again = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert again.schema.equals(schema)
    assert again.to_pylist() == [row]


def test_quarantine_columns_are_the_record_and_its_run() -> None:
    record = {field for field in Quarantined.__dataclass_fields__}
    assert set(tables.QUARANTINE.names) == record | {"run_id", "released"}


def test_rows_schema_holds_the_standard_columns_and_the_extras() -> None:
    schema = tables.rows_schema(3, "float16", {"score": "float32", "rank": "int32"})
    assert set(tables.STANDARD_ROW_COLUMNS) < set(schema.names)
    assert schema.field("values").type == pa.list_(pa.field("item", pa.float16(), nullable=False), 3)
    assert schema.names[-2:] == ["rank", "score"]
    assert not any(field.nullable for field in schema)


def test_a_video_error_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(VideoError("decode", "timeout", "video a: expected x, got y; z")))
    assert (error.stage, error.reason, str(error)) == ("decode", "timeout", "video a: expected x, got y; z")
    assert isinstance(error, ClipmillError)


def test_usage_errors_are_value_errors_with_exit_code_two() -> None:
    assert UsageError("x").exit_code == 2
    assert isinstance(UsageError("x"), ValueError)


def test_messages_have_the_house_form() -> None:
    assert (
        describe("feature", "c3d", "a layer", "'fc9'", "use fc6") == "feature c3d: expected a layer, got 'fc9'; use fc6"
    )
    assert near("fc66", ["fc6", "fc7", "pool5"]) == "did you mean 'fc6' or 'fc7'?"
    assert near("zzz", ["fc7", "fc6"]) == "known: fc6, fc7"
