"""``clipmill search``: real videos, real decoding, real (random) networks; rankings against brute force."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from clipmill.jobs.report_clips import lineage
from clipmill.jobs.search import run_search
from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.pipelines.features.query_images import QueryError, check_recipe, images_of, read_image
from clipmill.pipelines.reports.lineage import ClipPlace
from clipmill.schemas.errors import ConfigError, StoreError, UsageError, WeightsError
from clipmill.schemas.inputs import InputRows
from clipmill.stores import FeatureStore
from clipmill.stores.formats.search_results import read_search_results
from tests.models.plain_scores import plain_scores
from tests.pipelines.reports.browser import CHROMIUM, browser

Search = Callable[..., Any]


@pytest.fixture
def search(blobs: Path, tmp_path: Path) -> Search:
    """Runs a search over the stored features; keys given replace the config's."""

    def run(**changes: Any) -> Any:
        data = {"store": str(blobs / "store"), "image": "query", "video": "frames"}
        config = {"data": data, "queries": {}, "k": 4, "out": str(tmp_path / "out")} | changes
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")
        return run_search(str(path), [])

    return run


def _drawn(blobs: Path) -> dict[str, float]:
    """Returns the time of the frame that stands for each video's clip in the feature `query`."""
    feature = FeatureStore(str(blobs / "store"))["query"]
    return {video: float(feature[video].start_seconds[0]) for video in feature.video_ids}


def _cosines(row: np.ndarray, rows: np.ndarray) -> np.ndarray:
    row, rows = row.astype(np.float64), rows.astype(np.float64)
    return rows @ row / np.linalg.norm(rows, axis=1) / np.linalg.norm(row)


# --- the same recipe, the exact order --------------------------------------------------------------


def test_a_frame_of_a_video_gets_the_row_the_build_stored_for_it(blobs: Path, search: Search) -> None:
    store = FeatureStore(str(blobs / "store"))
    clips = store["frames"].clips()
    gallery = store["frames"].clip_means(clips)
    times = dict(list(_drawn(blobs).items())[:3])
    frames = [{"file": str(blobs / "videos" / video), "seconds": [time]} for video, time in times.items()]
    outcome = search(queries={"frames": frames}, k=6)
    assert outcome.exit_code == 0
    for video, query in zip(times, outcome.data["queries"], strict=True):
        expected = _cosines(store["query"][video].values[0], gallery)
        order = np.argsort(-expected)
        found = query["spaces"]["cosine"]
        assert [item["video"] for item in found] == [clips[i].video_id for i in order]
        assert [item["score"] for item in found] == pytest.approx(expected[order].tolist(), abs=1e-5)
        assert [item["rank"] for item in found] == [1, 2, 3, 4, 5, 6]
        assert found[0]["uri"] == str(blobs / "videos" / found[0]["video"])
        assert (found[0]["start_seconds"], found[0]["stop_seconds"], found[0]["label"]) == (
            0.0, pytest.approx(2.0), found[0]["video"].split("/")[0],
        )  # fmt: skip


def test_a_picture_of_the_frame_finds_what_the_frame_finds(blobs: Path, search: Search, tmp_path: Path) -> None:
    video, time = next(iter(_drawn(blobs).items()))
    path = blobs / "videos" / video
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0) if frame.time <= time + 1e-6]
    Image.fromarray(shown[-1]).save(tmp_path / "frame.png")
    outcome = search(
        queries={"files": [str(tmp_path / "frame.png")], "frames": [{"file": str(path), "seconds": [time]}]}
    )
    picture, frame = (query["spaces"]["cosine"] for query in outcome.data["queries"])
    assert [item["video"] for item in picture] == [item["video"] for item in frame]
    # Converting YUV to RGB differs by a level or two between the two ways of decoding.
    assert [item["score"] for item in picture] == pytest.approx([item["score"] for item in frame], abs=2e-3)


def test_a_trained_run_searches_its_spaces_as_the_model_scores_them(blobs: Path, search: Search) -> None:
    trained = load(find_checkpoint(str(blobs / "run")))
    store = FeatureStore(str(blobs / "store"))
    clips = store["frames"].clips()
    video, time = next(iter(_drawn(blobs).items()))
    left = embed(trained, "query", {"image": InputRows(store["query"][video].values[:1])})
    right = embed(trained, "gallery", {"video": InputRows(store["frames"].clip_means(clips))})
    frames = [{"file": str(blobs / "videos" / video), "seconds": [time]}]
    outcome = search(data=None, run=str(blobs / "run"), queries={"frames": frames})
    spaces = outcome.data["queries"][0]["spaces"]
    assert set(spaces) == {"appearance", "video", "combined"}
    for space, found in spaces.items():
        expected = plain_scores(trained.model.spaces(), space, left, right)[0]
        scores = {clips[i].video_id: float(expected[i]) for i in range(len(clips))}
        assert [item["score"] for item in found] == pytest.approx(sorted(scores.values())[::-1][:4], abs=1e-4)
        assert [scores[item["video"]] for item in found] == pytest.approx([item["score"] for item in found], abs=1e-4)
    assert outcome.data["about"]["model"] == "map_ivr"
    named = search(data=None, run=str(blobs / "run"), queries={"frames": frames}, spaces=["combined"])
    assert named.data["queries"][0]["spaces"] == {"combined": spaces["combined"]}
    ranked = read_search_results(named.data["results"])
    assert list(ranked.values()) == [[item["clip"] for item in spaces["combined"]]]


def test_equal_scores_go_by_clip_id_and_the_same_search_gives_the_same_bytes(
    blobs: Path, search: Search, tmp_path: Path
) -> None:
    Image.new("RGB", (50, 40), (0, 0, 0)).save(tmp_path / "a.png")
    files = {"files": [str(tmp_path / "a.png"), str(tmp_path / "a.png")]}
    search(queries=files, out=str(tmp_path / "one"))
    first = [(tmp_path / "one" / name).read_bytes() for name in ("results.json", "report.html")]
    search(queries=files, out=str(tmp_path / "one"))
    assert first == [(tmp_path / "one" / name).read_bytes() for name in ("results.json", "report.html")]
    queries = json.loads(first[0])["queries"]
    assert queries[0] == queries[1]


# --- queries that cannot be used ------------------------------------------------------------------


def test_a_query_that_cannot_be_read_is_reported_and_the_others_go_on(
    blobs: Path, search: Search, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (60, 40), (200, 10, 10)).save(folder / "good.JPG", "JPEG")
    (folder / "cut.jpg").write_bytes((folder / "good.JPG").read_bytes()[:300])
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("left out")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    outcome = search(
        queries={
            "folder": str(folder),
            "files": [str(tmp_path / "nowhere.png"), str(folder)],
            "frames": [{"file": str(broken), "seconds": [0, 1]}],
        }
    )
    assert outcome.exit_code == 3
    assert [query["query"] for query in outcome.data["queries"]] == [str(folder / "good.JPG")]
    failed = {Path(item["query"]).name: item["message"] for item in outcome.data["failed"]}
    assert list(failed) == ["cut.jpg", "text.png", "nowhere.png", "images", "broken.mp4@0 s", "broken.mp4@1 s"]
    assert "expected a whole image" in failed["cut.jpg"]
    assert "expected an image, got a file of another kind" in failed["text.png"]
    assert "expected an image file, got nothing there" in failed["nowhere.png"]
    assert "expected an image file, got a folder" in failed["images"]
    assert "broken.mp4@1 s: expected a video that can be decoded, got not a video" in failed["broken.mp4@1 s"]
    html = Path(outcome.data["report"]).read_text("utf-8")
    assert "6 queries could not be used" in html


def test_without_any_usable_query_there_is_still_a_page_that_says_so(search: Search, tmp_path: Path) -> None:
    outcome = search(queries={"files": [str(tmp_path / "nowhere.png")]})
    assert outcome.exit_code == 3
    assert "No query could be used." in Path(outcome.data["report"]).read_text("utf-8")


# --- what is refused ------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> dict[str, list[str]]:
    Image.new("RGB", (60, 40), (200, 10, 10)).save(tmp_path / "q.png")
    return {"files": [str(tmp_path / "q.png")]}


def test_no_store(search: Search, picture: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a clipmill store"):
        search(queries=picture, data={"store": str(tmp_path / "nowhere"), "image": "query", "video": "frames"})


def test_a_feature_the_store_lacks_is_named_with_the_near_ones(blobs: Path, search: Search, picture: Any) -> None:
    with pytest.raises(StoreError, match="did you mean 'frames'"):
        search(queries=picture, data={"store": str(blobs / "store"), "image": "query", "video": "frame"})


def test_features_of_two_networks_need_a_run(blobs: Path, search: Search, picture: Any) -> None:
    with pytest.raises(UsageError, match=r"features other and frames: expected outputs of one network.*give run"):
        search(queries=picture, data={"store": str(blobs / "store"), "image": "other", "video": "frames"})


def test_a_run_of_other_recipes_is_refused(blobs: Path, search: Search, picture: Any) -> None:
    data = {"store": str(blobs / "store"), "image": "other", "video": "frames"}
    with pytest.raises(UsageError, match="expected image feature other of recipe .*, which it was trained on"):
        search(queries=picture, run=str(blobs / "run"), data=data)


def test_weights_that_were_moved_are_named_and_found_again_where_one_says(
    blobs: Path, search: Search, picture: Any, tmp_path: Path
) -> None:
    before = search(queries=picture).data["queries"]
    home, moved = blobs / "squeezenet.pt", tmp_path / "moved.pt"
    home.rename(moved)
    try:
        with pytest.raises(WeightsError, match=r"weights of query: expected the file .*squeezenet.pt.*weights: PATH"):
            search(queries=picture)
        assert search(queries=picture, weights=str(moved)).data["queries"] == before
        moved.with_name("other.pt").write_bytes(moved.read_bytes()[:-1])
        with pytest.raises(WeightsError, match=r"other.pt: expected SHA-256"):
            search(queries=picture, weights=str(moved.with_name("other.pt")))
    finally:
        moved.rename(home)


def test_weights_for_random_ones_are_refused(blobs: Path, search: Search, picture: Any) -> None:
    data = {"store": str(blobs / "store"), "image": "other", "video": "other"}
    with pytest.raises(UsageError, match=r"search weights: expected none \(random\(1\)\)"):
        search(queries=picture, data=data, weights="some.pt")


def test_windows_that_one_picture_cannot_fill_are_refused(blobs: Path) -> None:
    recipe = FeatureStore(str(blobs / "store"))["query"].recipe
    longer = recipe.model_copy(update={"sampling": recipe.sampling.model_copy(update={"frames": 16})})
    with pytest.raises(UsageError, match="feature query: expected windows of one frame.* got windows of 16"):
        check_recipe(longer)


def test_an_unknown_space(search: Search, picture: Any) -> None:
    with pytest.raises(UsageError, match="search spaces: expected cosine, got video"):
        search(queries=picture, spaces=["video"])


def test_a_folder_without_images(search: Search, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="expected at least one image, got an empty folder"):
        search(queries={"folder": str(tmp_path / "empty")})
    with pytest.raises(UsageError, match="expected a folder of images, got nothing there"):
        search(queries={"folder": str(tmp_path / "nowhere")})
    (tmp_path / "empty" / "a.txt").write_text("")
    with pytest.raises(UsageError, match="got none among 1 files"):
        images_of(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": {}}, "queries: expected folder, files, frames or texts"),
        ({"queries": {"frames": [{"file": "a.mp4", "seconds": [-1]}]}}, "expected times of zero or more"),
        ({"k": 0}, "k: Input should be greater than or equal to 1"),
        ({"data": None}, "expected run .* or data"),
        ({"gallery": "x"}, "gallery: unknown key"),
    ],
)
def test_a_config_that_does_not_fit(search: Search, picture: Any, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(**{"queries": picture} | changes)


# --- the pages of the build and the training it rests on -------------------------------------------


def test_a_build_leaves_a_page_with_its_features_and_what_it_quarantined(blobs: Path) -> None:
    built = json.loads((blobs / "built.json").read_text())
    path = blobs / "store" / "runs" / built["run_id"] / "report.html"
    assert built["report"] == str(path)
    html = path.read_text("utf-8")
    for words in ("Build of blobs", "squeezenet features", "label 0/broken.mp4", "not_a_video", "random(1)"):
        assert words in html, words
    digest = FeatureStore(str(blobs / "store"))["query"].recipe.weights.sha256 or "none"
    assert digest[:12] in html


def test_a_training_leaves_a_page_with_its_losses(blobs: Path) -> None:
    report = json.loads((blobs / "run" / "report.json").read_text())
    html = (blobs / "run" / "report.html").read_text("utf-8")
    assert len(report["losses"]) == 2
    for name, value in report["losses"][-1].items():
        assert f"{name}: {value:.4g} at epoch 2" in html
    assert html.count('<svg class="chart"') == len(report["losses"][-1])


def test_lineage_names_the_frames_bytes_weights_and_decoder_of_a_clip(blobs: Path) -> None:
    store = FeatureStore(str(blobs / "store"))
    video, time = next(iter(_drawn(blobs).items()))
    clip = ClipPlace(f"{video}#0", video, 0, 0.0, 2.0)
    path, roles = blobs / "videos" / video, (("query", "query"), ("gallery", "frames"))
    found = lineage(store, [clip], roles)[f"{video}#0"]
    assert (found.state, found.num_bytes, found.uri) == ("same bytes", path.stat().st_size, str(path))
    query, gallery = found.features
    # Ten frames at 5 fps: frame i is shown at i / 5 s.
    assert query.frames == f"1 frame: {round(time * 5)} at {time:.2f} s, of 10 in the video; 1 window of 1"
    assert gallery.frames == (
        "10 frames: 0, 1, 2, …, 7, 8, 9 at 0.00, 0.20, 0.40, …, 1.40, 1.60, 1.80 s, of 10 in the video; 10 windows of 1"
    )
    assert gallery.fingerprint == store["frames"].recipe.fingerprint
    assert gallery.weights.endswith(hashlib.sha256((blobs / "squeezenet.pt").read_bytes()).hexdigest())
    passport = store["frames"].index().to_pylist()[0]["passport"]
    assert f"{passport['decoder']} {passport['decoder_version']}" in gallery.facts["decoded by"]

    whole = path.read_bytes()
    try:
        path.write_bytes(whole + b"x")
        changed = lineage(store, [clip], roles)[f"{video}#0"]
        assert changed.state == "other bytes than the rows were made from"
        assert changed.features[0].frames == "not known: other bytes than the rows were made from"
        path.unlink()
        assert lineage(store, [clip], roles)[f"{video}#0"].state == "no file there any more"
    finally:
        path.write_bytes(whole)


# --- pictures of all kinds ------------------------------------------------------------------------


def _quadrants(size: int = 8) -> np.ndarray:
    pixels = np.zeros((size, 2 * size, 3), np.uint8)
    pixels[:, :size], pixels[:, size:] = (250, 0, 0), (0, 0, 250)
    return pixels


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    picture = Image.fromarray(_quadrants())
    for orientation, stored in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)):
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.transpose(stored).save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(read_image(str(tmp_path / "turned.png")), _quadrants())


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    alpha = np.zeros((8, 16), np.uint8)
    alpha[:, :8] = 255
    Image.fromarray(np.dstack([_quadrants(), alpha])).save(tmp_path / "a.png")
    pixels = read_image(str(tmp_path / "a.png"))
    assert pixels[0, 0].tolist() == [250, 0, 0]
    assert pixels[0, 15].tolist() == [255, 255, 255]
    palette = Image.fromarray(_quadrants()).quantize(4)
    palette.info["transparency"] = palette.getpixel((15, 0))
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((15, 0)))
    assert read_image(str(tmp_path / "p.png"))[0, 15].tolist() == [255, 255, 255]


def test_sixteen_bits_keep_their_high_byte(tmp_path: Path) -> None:
    grey = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000 + 77).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "g.png")
    Image.fromarray(grey).save(tmp_path / "g.tif")
    for name in ("g.png", "g.tif"):
        pixels = read_image(str(tmp_path / name))
        assert np.array_equal(pixels, np.repeat((grey // 256).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P", "LA"])
def test_other_kinds_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    pixels = read_image(str(path))
    assert pixels.shape == (4, 6, 3)
    assert pixels.min() >= 254


def test_floating_point_samples_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(QueryError, match="expected samples of 8 or 16 bits, got Pillow's mode F"):
        read_image(str(tmp_path / "f.tif"))


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_works_in_a_browser(blobs: Path, search: Search, tmp_path: Path) -> None:
    video = next(iter(_drawn(blobs)))
    outcome = search(
        data=None,
        run=str(blobs / "run"),
        queries={"frames": [{"file": str(blobs / "videos" / video), "seconds": [0.4, 1.2]}], "files": ["nowhere.png"]},
    )
    with browser(tmp_path / "profile") as page:
        for width in (1280, 390):
            page.open(Path(outcome.data["report"]), width)
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('.example').length") == 2
        assert page.evaluate("document.querySelectorAll('.example .hits.large li').length") == 2 * 3 * 4
        moving = page.evaluate("getComputedStyle(document.querySelector('.hits.large .moving')).animationName")
        assert moving == "moving"
        page.evaluate("document.querySelector('.hits button').focus()")
        page.press("Enter", 13)
        assert page.evaluate("document.querySelector('dialog').open") is True
        assert page.evaluate("document.querySelector('dialog .more').textContent").startswith(str(blobs / "videos"))
        page.press("Escape", 27)
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
