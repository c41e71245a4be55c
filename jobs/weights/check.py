"""``clipmill weights check``: what a weights file is, and where a sample is published whether it gives its numbers."""

import os
from collections.abc import Sequence
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.base import ProgramFile, card_for
from clipmill.extractors.weights_report import WeightsReport, report_weights
from clipmill.jobs.output import Outcome
from clipmill.jobs.weights.sample import check_sample
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_FAILURE, UsageError, describe
from clipmill.schemas.recipe import Preprocess


def run_check(extractor: str, path: str, inputs: Sequence[str]) -> Outcome:
    """Prints what the file is; exit code 1 when the extractor cannot take it or its numbers are not the published."""
    sample_of = registry.registration(extractor).sample
    if inputs and sample_of is None:
        having = [name for name in registry.names() if registry.registration(name).sample is not None]
        expected = f"extractor {' or '.join(having)} (no other has a published sample)"
        raise UsageError(describe("option", "--input", expected, extractor, "leave it out"))
    program = registry.card(extractor).program
    if program is not None:
        return _program(extractor, program, os.path.abspath(os.path.expanduser(path)))
    report = report_weights(extractor, path)
    data = _data(extractor, report)
    lines = _lines(extractor, report)
    passed = report.passed
    if sample_of is not None and report.recipe is not None:
        sample = check_sample(extractor, sample_of(), report, inputs)
        passed = passed and sample.agrees
        data["sample"] = sample.data
        lines += sample.lines
    data["passed"] = passed
    return Outcome(data, "\n".join(lines), EXIT_COMPLETE if passed else EXIT_FAILURE)


def _program(extractor: str, program: ProgramFile, path: str) -> Outcome:
    """Says what an exported network is; one that cannot be used is an error, with its reason."""
    facts = [("SHA-256", program.digest(path)), *program.describe(path)]
    named = {key: [value for other, value in facts if other == key] for key, _ in facts}
    data = {"extractor": extractor, "path": path, "num_bytes": os.path.getsize(path), "layout": program.layout}
    data |= {key.lower().replace("-", "").replace(" ", "_"): found for key, found in named.items() if key != "SHA-256"}
    data |= {"sha256": named["SHA-256"][0], "passed": True}
    lines = [path, f"  {'file':<10}  {data['num_bytes']:,} bytes, {program.layout}"]
    lines += [f"  {key:<10}  {value}" for key, value in facts]
    lines.append(f"  {'in a build':<10}  {extractor}: {{layer: {_last_word(facts)}, weights: {{file: {path}}}}}")
    return Outcome(data, "\n".join(lines), EXIT_COMPLETE)


def _last_word(facts: Sequence[tuple[str, str]]) -> str:
    """Returns the name of the first output, which stands behind its shape."""
    return next(value.rpartition(" ")[2] for key, value in facts if key == "output")


def _data(extractor: str, report: WeightsReport) -> dict[str, Any]:
    recipe = report.recipe
    return {
        "extractor": extractor,
        "path": report.path,
        "num_bytes": report.num_bytes,
        "sha256": report.sha256,
        "git_blob": report.git_blob,
        "published": [
            {"extractor": item.extractor, "use": item.use, "name": item.file.name, "source": item.source}
            for item in report.published
            if item.file is not None
        ],
        "layout": report.fit.layout.name if report.layers else None,
        "nearest_layout": report.fit.layout.name,
        "missing": list(report.fit.missing),
        "unexpected": list(report.fit.unexpected),
        "misshaped": list(report.fit.misshaped),
        "not_finite": list(report.not_finite),
        "num_tensors": report.num_tensors,
        "num_parameters": report.num_parameters,
        "num_classes": report.num_classes,
        "card": recipe.weights.card if recipe is not None else None,
        "licence": recipe.weights.licence if recipe is not None else None,
        "preprocess": recipe.preprocess.model_dump(mode="json") if recipe is not None else None,
        "options": report.options,
        "layers": list(report.layers),
        "cards": list(report.cards),
    }


def _lines(extractor: str, report: WeightsReport) -> list[str]:
    fit, recipe = report.fit, report.recipe
    known = [
        f"{item.file.name} of {item.source} (extractor {item.extractor}, {item.licence})"
        for item in report.published
        if item.file is not None
    ]
    lines = [
        report.path,
        f"  file        {report.num_bytes:,} bytes, {report.num_tensors} tensors",
        f"  SHA-256     {report.sha256}",
        f"  git blob    {report.git_blob}",
        f"  published   {'; '.join(known) or 'not one of the files whose digest is known (clipmill weights list)'}",
    ]
    if not report.layers:
        lines.append(
            f"  layout      none of {extractor}'s; nearest is {fit.layout.name}: {fit.num_problems} keys do not fit"
        )
        kinds = (("missing", fit.missing), ("unexpected", fit.unexpected), ("mis-shaped", fit.misshaped))
        for kind, keys in kinds:
            lines += [f"    {kind:<10}  {key}" for key in keys]
        return lines
    classes = f", {report.num_classes} classes" if report.num_classes is not None else ""
    lines.append(f"  layout      {fit.layout.name}, {report.num_parameters or 0:,} parameters{classes}")
    if recipe is not None:
        lines.append(f"  card        {recipe.weights.card}: {_preprocess(recipe.preprocess)}")
    else:
        lines.append(f"  card        one of {', '.join(report.cards)}: keys and digest tell no more; name it")
    lines.append(f"  in a build  {_in_a_build(extractor, report)}")
    lacking = [layer for layer in _layers(extractor, report) if layer not in report.layers]
    if lacking:
        lines.append(f"  lacks       layer {', '.join(lacking)}")
    lines += [f"  not finite  {key} holds NaN or infinity" for key in report.not_finite]
    return lines


def _preprocess(preprocess: Preprocess) -> str:
    changed = preprocess.model_dump(exclude_defaults=True)
    return ", ".join(f"{key} {_number(value)}" for key, value in changed.items() if key != "mean_cube_file")


def _number(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_number(item) for item in value) + ")"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _layers(extractor: str, report: WeightsReport) -> list[str]:
    card = registry.card(extractor)
    return [layer.name for layer in card_for(card, card.options.model_validate(report.options or {})).layers]


def _in_a_build(extractor: str, report: WeightsReport) -> str:
    written: list[str] = []
    if report.layers and report.layers[0] != _layers(extractor, report)[0]:
        written.append(f"layer: {report.layers[0]}")
    if report.options:
        written.append(f"options: {{{', '.join(f'{key}: {value}' for key, value in report.options.items())}}}")
    card = ", card: NAME" if report.recipe is None else ""
    written.append(f"weights: {{file: {report.path}{card}}}")
    return f"{extractor}: {{{', '.join(written)}}}"
