"""The page of a search: a moment is marked where it lies in its video."""

from clipmill.pipelines.reports.search import FoundClip, SearchedQuery, SearchPage, render_search


def page(*clips: FoundClip) -> str:
    queries = (SearchedQuery("a person opens the door", "", b"", {"moments": clips}),)
    return render_search(SearchPage("Moments in x", queries, 1, (), 1, "moments", {}, searched="videos"))


def test_a_moment_is_marked_inside_its_video() -> None:
    html = page(FoundClip("a@5-10", "a.mp4", "/a.mp4", None, 5.0, 10.0, 0.5, video_seconds=40.0))
    assert '<span class="when" aria-hidden="true"><i style="left:12.5%;width:12.5%"></i></span>' in html
    assert "0:05.0–0:10.0 of 0:40.0" in html


def test_a_moment_that_reaches_past_its_video_ends_with_it() -> None:
    html = page(FoundClip("a@30-50", "a.mp4", "/a.mp4", None, 30.0, 50.0, 0.5, video_seconds=40.0))
    assert "left:75.0%;width:25.0%" in html


def test_a_whole_clip_has_no_mark() -> None:
    assert 'class="when"' not in page(FoundClip("a#0", "a.mp4", "/a.mp4", None, 0.0, 10.0, 0.5))


def test_a_moment_has_one_line_below_its_image_and_its_score_in_words() -> None:
    html = page(FoundClip("a@5-10", "a.mp4", "/a.mp4", None, 5.0, 10.0, 0.5, video_seconds=40.0))
    assert '<span class="bar"' not in html
    assert '<span class="cap" aria-hidden="true">score 0.500</span>' in html
    assert '<span class="bar"' in page(FoundClip("a#0", "a.mp4", "/a.mp4", None, 0.0, 10.0, 0.5))


def test_a_sentence_stands_where_an_image_would() -> None:
    html = page()
    assert "<blockquote>a person opens the door</blockquote>" in html
    assert 'aria-label="Query a person opens the door"' in html, "the card still has a name"
    assert 'class="pic none"' not in html
