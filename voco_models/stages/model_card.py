"""The stage of handing a model over: a folder with its card and weights, and nothing of patients.

OUT/MODEL_CARD.md             the items of CLAIM 2024 and TRIPOD+AI, filled from the run, or as gaps
OUT/model-card.json           the same for a program
OUT/weights/fold-<i>.safetensors   the classifier of each fold
OUT/recipe.json, spec.json, decision.json   the network, how volumes are made, what is decided
OUT/pretraining.json          provenance of the pretraining, if there was one
OUT/SHA256SUMS                for `sha256sum --check`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voco_data.errors import InputError, translate_unwritable
from voco_data.temporary_folders import temporary_folder
from voco_data.version import VERSION
from voco_models.networks import SliceSequenceClassifier, read_weights, write_safetensors
from voco_models.stages import recipe_options
from voco_models.stages.card_facts import collect_facts, read_metrics
from voco_models.stages.card_items import NOT_RECORDED, FilledItem, fill_items
from voco_models.stages.classifiers import build_classifier
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.finished_run import FinishedRun, read_finished_run
from voco_models.stages.onnx_export import USE

FORMAT = 1
CARD, CARD_JSON, SUMS = "MODEL_CARD.md", "model-card.json", "SHA256SUMS"
RECIPE, SPEC, DECISION, PRETRAINING = (
    "recipe.json",
    "spec.json",
    "decision.json",
    "pretraining.json",
)
WEIGHTS = "weights"
FOLDER_MODE = 0o755

_METRICS = (
    "test_patients",
    "training_patients",
    "test_set",
    "level",
    "resamples",
    "scores",
    "gains",
    "organs",
)
"""Entries of metrics.json that the card has: sums and means over patients."""


@dataclass(frozen=True, slots=True)
class CardSummary:
    """The folder, and how much of the guidelines a run fills."""

    out: Path
    card: Path
    files: int
    bytes: int
    folds: int
    filled: int
    partly_filled: int
    gaps: int
    evaluated: bool
    digest: str
    """Of the run."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {"out": str(self.out), "card": str(self.card)}


def make_model_card(run: str | Path, out: str | Path) -> CardSummary:
    """Write the card and the weights of a finished fine-tuning run to the new folder `out`.

    The folder appears when it is complete. Raises InputError for a run that is not finished or
    lacks a file, and for a folder that is not empty. Raises VocoError if it cannot be written.
    """
    finished, folder = read_finished_run(run), Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder as --out")
    metrics = read_metrics(finished.folder)
    classifiers = [finished.load_classifier(fold) for fold in range(finished.recipe.n_folds)]
    items = fill_items(collect_facts(finished, classifiers[0], metrics))
    with translate_unwritable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as made:
            _write(made, finished, classifiers, items, metrics)
            made.chmod(FOLDER_MODE)
            made.replace(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    by_status = [item.status for item in items]
    return CardSummary(
        out=folder,
        card=folder / CARD,
        files=len(files),
        bytes=sum(file.stat().st_size for file in files),
        folds=len(classifiers),
        filled=by_status.count("filled"),
        partly_filled=by_status.count("partly filled"),
        gaps=by_status.count("gap"),
        evaluated=metrics is not None,
        digest=finished.digest,
    )


def load_card_classifier(folder: str | Path, fold: int) -> SliceSequenceClassifier:
    """The classifier of a fold from a folder of `make_model_card`, on the CPU, for prediction.

    Raises InputError if a file is missing, was changed, or is of another network.
    """
    root = Path(folder)
    weights = root / WEIGHTS / f"fold-{fold}.safetensors"
    _check_sums(root, [RECIPE, weights.relative_to(root).as_posix()])
    values = json.loads((root / RECIPE).read_text())
    classifier = build_classifier(recipe_options.build_recipe(FinetuneRecipe, values))
    try:
        classifier.load_state_dict(read_weights(weights), strict=True)
    except RuntimeError as error:
        raise InputError(
            f"{weights}: its weights do not fit the network of {RECIPE}; use the versions of voco "
            f"and timm that {CARD} names"
        ) from error
    return classifier.eval()


def _check_sums(root: Path, names: Sequence[str]) -> None:
    try:
        lines = (root / SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        for name in names:
            if sums[name] != _sha256(root / name):
                raise InputError(f"{root / name}: it was changed since the card was written")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{root}: expected a whole folder of voco card, with {', '.join(names)} and {SUMS}"
        ) from error


def _write(
    folder: Path,
    run: FinishedRun,
    classifiers: Sequence[SliceSequenceClassifier],
    items: Sequence[FilledItem],
    metrics: Mapping[str, Any] | None,
) -> None:
    """All files of the card."""
    (folder / WEIGHTS).mkdir()
    for fold, classifier in enumerate(classifiers):
        header = {"format": FORMAT, "run": run.digest, "fold": fold, "use": USE}
        write_safetensors(
            folder / WEIGHTS / f"fold-{fold}.safetensors",
            classifier.state_dict(),
            json.dumps(header, sort_keys=True),
        )
    _write_json(folder / RECIPE, without_patients(run.recipe.to_json()))
    _write_json(folder / SPEC, asdict(run.spec))
    (folder / DECISION).write_text(run.decision.to_json())
    if run.description.get("pretraining"):
        _write_json(folder / PRETRAINING, without_patients(run.description["pretraining"]))
    card = _describe(run, items, metrics)
    _write_json(folder / CARD_JSON, card)
    (folder / CARD).write_text(render_card(card))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    sums = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(sums))


def without_patients(value: Any) -> Any:
    """A recipe or provenance as plain values, without lists of patients and names of such files."""
    if isinstance(value, Mapping):
        return {
            key: without_patients(item)
            for key, item in value.items()
            if key != "patients_file" and not (key == "patients" and isinstance(item, list | tuple))
        }
    if isinstance(value, list | tuple):
        return [without_patients(item) for item in value]
    return value


def _describe(
    run: FinishedRun, items: Sequence[FilledItem], metrics: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Content of the card, as plain values."""
    about = run.description
    return {
        "format": FORMAT,
        "name": f"{run.recipe.name}: {run.recipe.backbone}, head {run.recipe.head}",
        "use": USE,
        "run": run.digest,
        "classes": {group.name: list(group.classes) for group in run.targets},
        "versions": {name: about.get(name) for name in ("voco", "commit", "torch", "timm")},
        "card_written_by_voco": VERSION,
        "labels_sha256": about.get("labels_sha256"),
        "split": about.get("split"),
        "store": run.spec.name,
        "metrics": None
        if metrics is None
        else {name: metrics[name] for name in _METRICS if name in metrics},
        "items": [item.to_json() for item in items],
    }


def render_card(card: Mapping[str, Any]) -> str:
    """The card in Markdown, from the plain values of the JSON file."""
    facts = {
        "Run": card["run"],
        "Store spec": card["store"],
        "Split": card["split"],
        "SHA-256 of the labels": card["labels_sha256"],
    } | card["versions"]
    lines = [f"# {card['name']}", "", str(card["use"]), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    lines += [f"| {group} | {', '.join(names)} |" for group, names in card["classes"].items()]
    lines += ["", "## Scores", "", *_render_scores(card["metrics"])]
    lines += ["", "## To use the weights", "", *_HOW_TO]
    for guideline in dict.fromkeys(item["guideline"] for item in card["items"]):
        own = [item for item in card["items"] if item["guideline"] == guideline]
        gaps = sum(item["gap"] is not None for item in own)
        lines += ["", f"## {guideline}", ""]
        lines += [f"{gaps} of {len(own)} items have something that the run does not record.", ""]
        lines += ["| item | topic | what the run records |", "|---|---|---|"]
        lines += [f"| {item['number']} | {item['topic']} | {_tell(item)} |" for item in own]
    return "\n".join(lines) + "\n"


_HOW_TO = (
    "`sha256sum --check SHA256SUMS` checks the files. The classifiers are those of `recipe.json`:",
    "",
    "```python",
    "from voco_models.stages import load_card_classifier",
    "",
    'classifier = load_card_classifier("DIR", fold=0)',
    "```",
    "",
    "`spec.json` is a file for `voco preprocess --spec-file`.",
    "Average the probabilities of the folds, then apply `decision.json`.",
)


def _render_scores(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return [f"{NOT_RECORDED}: the run was not evaluated in its folder (`voco evaluate RUN`)"]
    rows = [
        f"| {name} | {value['value']:.3f} | {value['low']:.3f} to {value['high']:.3f} |"
        for name, value in metrics["scores"].items()
    ]
    head = f"| on {metrics['test_patients']} test patients | value | interval |"
    return [head, "|---|---|---|", *rows]


def _tell(item: Mapping[str, Any]) -> str:
    parts = [] if item["text"] is None else [_cell(item["text"])]
    if item["gap"] is not None:
        parts.append(f"**{NOT_RECORDED}: {_cell(item['gap'])}**")
    return "<br>".join(parts)


def _cell(value: object) -> str:
    """A value in a cell of a Markdown table."""
    if value is None:
        return NOT_RECORDED
    return " ".join(str(value).split()).replace("|", "\\|")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
