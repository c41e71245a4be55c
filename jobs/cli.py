"""The command line. Every verb imports what it needs when it runs, so that ``clipmill status`` answers at once."""

import logging
import sys
from typing import Annotated

import typer

from clipmill import __version__
from clipmill.jobs.output import Outcome, fail_without, run_verb
from clipmill.jobs.weights.commands import weights_app
from clipmill.schemas.errors import UsageError, describe

app = typer.Typer(
    name="clipmill",
    help="Offline batch pipeline for video features: build, train on them, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(weights_app, name="weights")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"clipmill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _be_verbose(wanted: bool) -> bool:
    if wanted:
        logging.getLogger("clipmill").setLevel(logging.INFO)
    return wanted


ConfigFile = Annotated[str | None, typer.Argument(help="YAML file of the job.", metavar="FILE")]
Config = Annotated[str | None, typer.Option("--config", help="FILE, as an option.", metavar="FILE")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Tell the resolved config, too.", callback=_be_verbose, expose_value=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one key: a.b=value. Repeatable.", metavar="A.B=V")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with the result on standard output.")]
StoreUrl = Annotated[str, typer.Argument(help="Path or URL of a store.", metavar="STORE")]

Recheck = Annotated[
    str | None,
    typer.Option("--recheck", help="bytes: read every file again, also where size and time are known.", metavar="WHAT"),
]


def _path(file: str | None, option: str | None) -> str | None:
    """Returns the path of the config file, which a verb takes as its argument or as ``--config``."""
    if file is not None and option is not None:
        remedy = "leave one out"
        raise UsageError(describe("option", "--config", "one config file", f"{option} beside {file}", remedy))
    return file if file is not None else option


def _config(file: str | None, option: str | None) -> str:
    path = _path(file, option)
    if path is None:
        raise UsageError(describe("argument", "FILE", "the YAML file of the job", "none", "name it behind the verb"))
    return path


Shard = Annotated[
    str | None,
    typer.Option("--shard", help="Only the i-th of n disjoint shares of the videos (1/8 to 8/8).", metavar="I/N"),
]

Price = Annotated[
    str | None,
    typer.Option(
        "--price", help="Of units: cpu_hour, gpu_hour, gb_month, write_1000, read_1000.", metavar="UNIT=X,..."
    ),
]

RESUME_HINT = "what is committed stands; run the same command again to go on"

TRIALS_HINT = "finished trials stand; run the same command again to go on"


@app.command()
def build(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Name of the engine: local, ray, beam, ...")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it would cost; write nothing.")
    ] = False,
    sample_seconds: Annotated[
        float, typer.Option(help="Of --dry-run: most time for a sample where no run tells; 0: none.", min=0)
    ] = 30.0,
    price: Price = None,
    recheck: Recheck = None,
    max_quarantine: Annotated[
        str | None,
        typer.Option(help="End early once more videos, or a larger share, go into quarantine.", metavar="N|SHARE"),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="End by then: 7h30m, 06:00 or 2026-05-01T06:00.", metavar="DURATION|TIME")
    ] = None,
    shard: Shard = None,
    heartbeat: Annotated[
        float, typer.Option(help="Seconds between two lines that say how far the run is; 0: none.", min=0)
    ] = 30.0,
    log_file: Annotated[
        str | None, typer.Option(help="Append all that is printed, each line with the time.", metavar="FILE")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(help="Serve metrics meanwhile; at 127.0.0.1 without a host.", metavar="[HOST:]PORT"),
    ] = None,
    prometheus_file: Annotated[
        str | None, typer.Option(help="Write metrics for the node exporter's textfile collector.", metavar="FILE.prom")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make every feature the store lacks."""
    from clipmill.pipelines.decode import forked

    # Videos are read in processes that it starts, while this one imports what comes now.
    forked.warm()
    from clipmill.jobs.build import budgets_of, run_build, run_plan
    from clipmill.jobs.observation import Observation

    settings = [*(overrides or []), *([f"engine.name={engine}"] if engine else [])]

    def verb() -> Outcome:
        budgets = budgets_of(max_quarantine, deadline, shard)
        if dry_run:
            return run_plan(_config(file, config), settings, recheck, budgets.shard, price, sample_seconds)
        watched = Observation(heartbeat, prometheus, prometheus_file)
        return run_build(_config(file, config), settings, recheck, budgets, watched)

    run_verb(verb, as_json, RESUME_HINT, log_file)


@app.command()
def plan(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    recheck: Recheck = None,
    shard: Shard = None,
    price: Price = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what a build would do; decode and write nothing (build --dry-run --sample-seconds 0)."""
    from clipmill.jobs.build import budgets_of, run_plan

    run_verb(
        lambda: run_plan(_config(file, config), overrides or [], recheck, budgets_of(None, None, shard).shard, price),
        as_json,
    )


@app.command(name="import")
def import_(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make features of files that other programs wrote (HDF5, npy, mat, Parquet, Arrow)."""
    from clipmill.jobs.import_features import run_import

    run_verb(lambda: run_import(_config(file, config), overrides or []), as_json, RESUME_HINT)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one to show; all are listed else.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the video whose rows are counted.")] = 60.0,
    fps: Annotated[float, typer.Option(help="Frames a second of that video.")] = 25.0,
    as_json: AsJson = False,
) -> None:
    """List the published feature sets known by name, or show one as YAML with its source."""
    from clipmill.jobs.presets import run_presets

    run_verb(lambda: run_presets(name, seconds, fps), as_json)


@app.command()
def status(
    store: StoreUrl,
    watch: Annotated[bool, typer.Option("--watch", help="First follow the newest run until it ends.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1)] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Show what is complete, missing and in quarantine, per recipe."""
    from clipmill.jobs.status import run_status

    def verb() -> Outcome:
        if watch:
            from clipmill.jobs.watch import watch as watch_run

            watch_run(store, every)
        return run_status(store)

    run_verb(verb, as_json)


@app.command()
def runs(
    store: StoreUrl,
    last: Annotated[int, typer.Option(help="Only so many, the newest; 0: all.", min=0)] = 30,
    as_json: AsJson = False,
) -> None:
    """List the runs of a store: when, who, where, on what, how much, how it ended."""
    from clipmill.jobs.runs import run_runs

    run_verb(lambda: run_runs(store, last), as_json)


@app.command()
def verify(
    store: StoreUrl,
    sample: Annotated[
        float, typer.Option(help="Share of the videos to compute again (at least one per recipe).")
    ] = 0.001,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check every commit against its bytes, and compute a sample of rows again."""
    from clipmill.jobs.verify import run_verify

    run_verb(lambda: run_verify(store, sample, seed), as_json)


@app.command()
def diff(
    store: StoreUrl,
    other: Annotated[str, typer.Argument(metavar="STORE", help="The other store.")],
    fail_on: Annotated[
        str | None,
        typer.Option(help="Exit code 5 where: rows (they differ by more than rounding), rounding.", metavar="WHAT"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which part of which recipe and passport differs between two stores, and how far rows are apart."""
    from clipmill.jobs.diff import run_diff

    run_verb(lambda: run_diff(store, other, fail_on), as_json)


@app.command()
def requeue(
    store: StoreUrl,
    reason: Annotated[list[str] | None, typer.Option(help="Only videos with this reason code. Repeatable.")] = None,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Instead: withdraw rows that verify finds damaged.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put quarantined videos back, or damaged rows, so that the next build makes them again."""
    from clipmill.jobs.requeue import run_requeue, run_requeue_damaged

    run_verb(lambda: run_requeue_damaged(store) if damaged else run_requeue(store, reason or []), as_json)


@app.command()
def remove(
    store: StoreUrl,
    missing: Annotated[
        bool, typer.Option("--missing", help="Videos that the newest full manifest no longer lists.")
    ] = False,
    ids: Annotated[list[str] | None, typer.Option("--ids", help="This video. Repeatable.", metavar="ID")] = None,
    ids_from: Annotated[
        str | None, typer.Option("--ids-from", help="The videos named in a file, one a line.", metavar="FILE")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken out.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take videos out of a store. A later build that lists one brings it back."""
    from clipmill.jobs.remove import run_remove

    run_verb(lambda: run_remove(store, missing, ids or [], ids_from, dry_run, yes), as_json)


@app.command()
def clean(
    store: StoreUrl,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what no commit refers to, and rows of removed videos. Run it while nothing builds or reads the store."""
    from clipmill.jobs.clean import run_clean

    run_verb(lambda: run_clean(store, dry_run), as_json)


@app.command()
def export(
    store: StoreUrl,
    feature: Annotated[str, typer.Option(help="Name of the feature.")],
    out: Annotated[str, typer.Option(help="Where to write: a new local path.")],
    format: Annotated[
        str | None, typer.Option(help="hdf5 (the default), npy, parquet, arrow, zarr, webdataset or lance.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Instead: what this repository's loader opens: 2dtan, vslnet, lgi, actionformer, opentad, bsn, "
            "moment-detr or umt.",
            metavar="LOADER",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Of --for: the data set whose loader it is.", metavar="NAME")
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(help="Of --for: names of the videos: stem (the default), id, or a CSV of video_id,name."),
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(help="Of --for: annotations to compare the names with.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one feature in a format other tools read, or as a published repository's loader opens it."""
    from clipmill.jobs.export import run_export

    run_verb(lambda: run_export(store, feature, out, format, target, dataset, ids, annotations), as_json)


@app.command()
def train(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train a model on stored features."""
    from clipmill.jobs.train import run_train

    run_verb(
        lambda: run_train(_config(file, config), overrides or []),
        as_json,
        "the last checkpoint stands; run the same command again to go on",
    )


@app.command()
def sweep(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train and evaluate over a grid, at random or point by point, with several seeds (Ray Tune)."""
    from clipmill.jobs.sweep import run_sweep

    run_verb(lambda: run_sweep(_config(file, config), overrides or []), as_json, TRIALS_HINT)


@app.command()
def evaluate(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Compare with another evaluation: its folder.", metavar="RUN")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="Exit with 5 if true: 'map@10 < -0.01' (ours - RUN's). Repeatable."),
    ] = None,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Compare although ground truth or protocol differ.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Score predictions or a trained run; write results.json and a report."""
    from clipmill.jobs.evaluate import run_evaluate

    run_verb(lambda: run_evaluate(_config(file, config), overrides or [], against, fail_if or [], other_data), as_json)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="An evaluation: its folder, or its results.json.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The evaluation to compare with.")],
    page: Annotated[str | None, typer.Option("--page", help="Write a page there.", metavar="FILE")] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="Exit with 5 if true: 'map@10 < -0.01' (A's - B's). Repeatable."),
    ] = None,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Compare although ground truth or protocol differ.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how two evaluations differ, metric by metric, with intervals and p-values."""
    from clipmill.jobs.compare import run_compare

    run_verb(lambda: run_compare(first, second, page, fail_if or [], other_data), as_json)


@app.command()
def whiten(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Fit a PCA whitening to the regional vectors of a store, for R-MAC on other videos."""
    from clipmill.jobs.whiten import run_whiten

    run_verb(lambda: run_whiten(_config(file, config), overrides or []), as_json)


@app.command()
def orient(
    store: StoreUrl,
    feature: Annotated[str, typer.Option(help="Name of a feature of C3D's fc7.")],
    pca: Annotated[str, typer.Option(help="The published PCA (.hdf5).", metavar="FILE")],
    as_json: AsJson = False,
) -> None:
    """Find out whether a PCA's directions are columns or rows of its matrix."""
    from clipmill.jobs.orient import run_orient

    run_verb(lambda: run_orient(store, feature, pca), as_json)


@app.command()
def search(
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Find the clips most like your own pictures, and write a page with them."""
    from clipmill.jobs.search import run_search

    run_verb(lambda: run_search(_config(file, config), overrides or []), as_json)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to reproduce, such as map-ivr-table.")],
    file: ConfigFile = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a published experiment and print ours beside theirs."""
    from clipmill.jobs.reproduce import run_reproduce

    run_verb(lambda: run_reproduce(name, _path(file, config), overrides or []), as_json, TRIALS_HINT)


@app.command()
def doctor(
    speed: bool = typer.Option(False, "--speed", help="Measure how fast its decoder and networks are by themselves."),
    as_json: AsJson = False,
) -> None:
    """Check this machine: libraries, devices, decoders, shared memory."""
    from clipmill.jobs.doctor import run_doctor, run_speed

    run_verb(run_speed if speed else run_doctor, as_json)


def main() -> None:
    """Runs the command line."""
    try:
        app(prog_name="clipmill")
    except ModuleNotFoundError as error:
        # Verbs import what they need before they run.
        fail_without(error, "--json" in sys.argv)
