"""``clipmill weights list|fetch|check|join|classify``. Every verb imports what it needs when it runs."""

from typing import Annotated

import typer

from clipmill.jobs.output import run_verb

weights_app = typer.Typer(
    name="weights",
    help="Published weights files: which there are, fetch one, check one, see what it makes of a video.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with the result on standard output.")]
ExtractorName = Annotated[str, typer.Argument(help="Name of the extractor, such as i3d.", metavar="EXTRACTOR")]


@weights_app.command(name="list")
def list_files(
    extractor: Annotated[str | None, typer.Option("--extractor", help="Only files of this extractor.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the published files that are known: use, layout, size, digest, licence, and whether they can be fetched."""
    from clipmill.jobs.weights.files import run_list

    run_verb(lambda: run_list(extractor), as_json)


@weights_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name of the file, as clipmill weights list shows it.", metavar="NAME")],
    out: Annotated[str, typer.Option("--out", help="Folder to put it in.", metavar="DIR")] = ".",
    url: Annotated[str | None, typer.Option("--url", help="Fetch it from this address (a mirror).")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a published file: goes on where it was cut, and keeps nothing but the file of the known digest."""
    from clipmill.jobs.weights.files import run_fetch

    run_verb(lambda: run_fetch(name, out, url), as_json, "what is fetched stays; run the same command again to go on")


@weights_app.command()
def check(
    extractor: ExtractorName,
    file: Annotated[str, typer.Argument(help="The weights file.", metavar="FILE")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="i3d: the published sample (.npy), or its video. Repeatable: rgb and flow."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a weights file is: layout, parameters, card, digest; with i3d's sample, whether its numbers agree."""
    from clipmill.jobs.weights.check import run_check

    run_verb(lambda: run_check(extractor, file, inputs or []), as_json)


@weights_app.command()
def join(
    files: Annotated[list[str], typer.Argument(help="I3D's two weights files, rgb and flow.", metavar="RGB FLOW")],
    out: Annotated[str, typer.Option("--out", help="The file to write.", metavar="FILE")],
    as_json: AsJson = False,
) -> None:
    """Write I3D's two streams into one file, for features with stream: both."""
    from clipmill.jobs.weights.join import run_join

    run_verb(lambda: run_join(files, out), as_json)


@weights_app.command()
def classify(
    extractor: ExtractorName,
    videos: Annotated[list[str], typer.Argument(help="Videos: paths or URLs.", metavar="VIDEO...")],
    files: Annotated[
        list[str],
        typer.Option("--file", help="The weights file. i3d takes two, rgb and flow: their logits are summed."),
    ],
    labels: Annotated[str | None, typer.Option("--labels", help="Class names, one per line.", metavar="FILE")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Classes shown per video.")] = 5,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override one key of the feature: sampling.fps=2. Repeatable.", metavar="A.B=V"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Name what videos show, so that a person sees whether weights are right: logits averaged, then softmax."""
    from clipmill.jobs.weights.classify import run_classify

    run_verb(lambda: run_classify(extractor, files, videos, labels, top, overrides or [], device), as_json)
