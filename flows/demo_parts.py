"""Sections of the demo's report about what follows the scores, from the files of the run.

Each is a short table. Where the part has a page of its own, the section links to it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from voco_data.labels import ORGAN_TARGETS, read_labels
from voco_data.qc import ENVIRONMENT
from voco_models.evaluation import ORGAN_SCORE, Line, line_plot
from voco_models.experiments import table_1_of_run
from voco_models.prediction import PAGES_FOLDER, page_name, read_patients
from voco_models.stages import make_explanation_tables
from voco_models.training import checkpoint

PAGES: Final = {
    "pretrain/report.html": "the pretraining: losses, and whether the backbone collapsed",
    "finetune/report.html": "the scores, as voco evaluate writes them",
    "experiment/report.html": "a small experiment: arms, and fractions of the labels",
    "explanation/explanation.html": "slices and places that the classifier uses",
    "predictions/index.html": "predictions of new patients, with a page for each",
    "predictions/submission.csv": "the same in the columns of RSNA 2023",
    "card/MODEL_CARD.md": "the model card, as Markdown",
}
"""Page → what it shows."""
LINK: Final = Markup('<a href="{}">{}</a>')

TABLE: Final = ENVIRONMENT.from_string("""
{% macro kind(value) %}
{%- if value[:1] in "+-0123456789" and not value[1:2].isalpha() %} class="number"{% endif %}
{%- endmacro %}
<div class="wide"><table>
<tr>{% for name, value in rows[0].items() %}<th{{ kind(value) }}>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for value in row.values() %}<td{{ kind(value) }}>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
""")
TABLE_1: Final = ENVIRONMENT.from_string("""
<p>The first row is this run on the made-up cohort: one seed ({{ seed }}), so no standard
deviation, and a much smaller backbone. The other rows are the paper's results on RATIC, another
data set: <strong>do not compare them</strong>. <code>voco experiment</code> makes this table for
several arms and seeds.</p>
{{ table }}
<p class="note">Chiu and Chen, From Volumes to Slices (arXiv 2601.14593), Table 1. The paper does
not say which mean its RSNA score is.</p>
""")
HEADS: Final = ENVIRONMENT.from_string("""
<p>The backbone is that of the pretraining, frozen. All heads get the same features of slices.
Each was trained with one seed for {{ epochs }} epochs in each of {{ results.folds }} folds of
{{ results.patients }} patients, and scored on the patients of the fold, whom it had not seen.
The {{ results.test_patients_left_out }} test patients were not used.</p>
{{ table }}
<p class="note">A gain is the loss of the best constant less that of the head: above 0, the head
is better. The best constant has {{ constant }}. Intervals are 95 %, over patients. Pretraining
has seen these patients, without their labels. A head that is best here need not be best when the
backbone is trained too.</p>
""")
ARMS: Final = ENVIRONMENT.from_string("""
<p>The classifier from scratch and from the pretrained backbone, with a part of the labels and with
all of them; every run takes as many steps. The recipe is that of this run, but made cheaper:
<code>{{ changes | join(" ") }}</code>. So the scores are worse than those above.</p>
{{ table }}
<figure>
{{ chart }}
<figcaption>Lines show 95 % intervals over the {{ patients }} test patients.</figcaption>
</figure>
<p class="note">One seed: intervals are over patients alone, and another seed may fall the other
way. The smallest difference to be seen is 2.8 standard errors.
<a href="experiment/report.html">The page of the experiment</a> has all scores;
<code>voco experiment</code> makes it for any arms, backbones, seeds and fractions.</p>
""")
EXPLANATION: Final = ENVIRONMENT.from_string("""
<p>Curves over slices and maps of {{ shown }} test patients are on
<a href="explanation/explanation.html">a page of their own</a>.</p>
{% for part in parts %}
<h3>{{ part.title }}</h3>
{{ part.table }}
{% for note in part.notes %}
<p class="note">{{ note }}</p>
{% endfor %}
{% endfor %}
""")
PREDICTIONS: Final = ENVIRONMENT.from_string("""
<p>{{ patients }} patients of the same kind, whom no stage has seen, predicted from their DICOM
files. Each has a page. Of {{ grades }} grades, {{ counts.right }} are those of the labels.
{% for name in ("wrong", "no decision", "refused") if counts[name] %}
{{ name | capitalize }}: {{ counts[name] }}.
{% endfor %}</p>
{{ table }}
<p class="note">The classifier did not get the labels. <a href="predictions/index.html">The list
of predictions</a> has probabilities, and says when no decision is made.</p>
""")
CARD: Final = ENVIRONMENT.from_string("""
<p>The folder <code>card/</code> can be handed over:
{% for name in files %}<a href="card/{{ name }}">{{ name }}</a>, {% endfor %}and the weights of
all folds. It names no patient. Items of two guidelines:</p>
{{ table }}
<details><summary>What the run does not record ({{ gaps | length }} items)</summary>
<ul>{% for item in gaps %}<li>{{ item.guideline }} {{ item.number }}: {{ item.gap }}</li>
{% endfor %}</ul></details>
""")


def list_pages(run: Path) -> str:
    """Links to the other pages in the folder of the run."""
    found = {page: text for page, text in PAGES.items() if (run / page).is_file()}
    return render_table(
        [{"Page": LINK.format(page, page), "Shows": t} for page, t in found.items()]
    )


def table_1(run: Path) -> str:
    """The scores of this run above the rows of the paper's Table 1."""
    seed = checkpoint.read_run(run / "finetune")["recipe"]["seed"]
    rows = table_1_of_run(run / "finetune", "this run, made-up cohort", "2D-VoCo")
    return TABLE_1.render(seed=seed, table=render_table(rows))


def heads(run: Path, epochs: int) -> str:
    """Scores of the heads that were trained on features of the frozen, pretrained backbone."""
    results = _read(run / "heads.json")
    rows = [
        {
            "Head": row["head"],
            "Parameters": f"{row['parameters']:,}",
            f"{ORGAN_SCORE} ↓": _interval({**row, "value": row[ORGAN_SCORE]}, ".3f"),
        }
        | {f"Gain, {organ}": _interval(gain, "+.2f") for organ, gain in row["gains"].items()}
        for row in results["rows"]
    ]
    constant = f"{results['best_constant'][ORGAN_SCORE]:.3f}"
    return HEADS.render(epochs=epochs, results=results, constant=constant, table=render_table(rows))


def arms(run: Path, changes: Sequence[str]) -> str:
    """Scores of the small experiment: a line for each arm and number of labelled patients."""
    results = _read(run / "experiment.json")
    cells = sorted(results["scores"], key=lambda cell: cell["labelled_patients"])
    rows, curves = [], dict[str, list[tuple[int, dict[str, float]]]]()
    for cell in cells:
        labelled, score = cell["labelled_patients"], cell[ORGAN_SCORE]
        curves.setdefault(cell["arm"], []).append((labelled, score["mean"]))
        gain, detectable = score["gain"], score["detectable"]
        rows.append(
            {
                "Labelled patients": str(labelled),
                "Arm": cell["arm"],
                f"{ORGAN_SCORE} ↓": _interval(score["mean"], ".3f"),
                "Better than scratch by": _interval(gain, "+.3f") if gain else "",
                "Smallest difference to be seen": f"{detectable:.3f}" if detectable else "",
            }
        )
    lines = [
        Line(
            arm,
            x=[labelled + number for labelled, _ in points],  # intervals lie side by side
            y=[mean["value"] for _, mean in points],
            low=[mean["low"] for _, mean in points],
            high=[mean["high"] for _, mean in points],
        )
        for number, (arm, points) in enumerate(curves.items())
    ]
    chart = line_plot(
        lines, title="Label efficiency", x_label="labelled patients", y_label=f"{ORGAN_SCORE} ↓"
    )
    return ARMS.render(
        changes=changes,
        table=render_table(rows),
        chart=Markup(chart),
        patients=results["test_patients"],
    )


def explanation(run: Path, shown: int) -> str:
    """The pointing game over all organs, and how well curves over slices find each organ."""
    results = _read(run / "explanation" / "explanation.json")
    pointing, slices, *_ = make_explanation_tables(results)
    chosen = (
        (pointing, [row for row in pointing.rows if row[1] == "all"]),
        (slices, [row for row in slices.rows if not row[0].startswith("sum of the map")]),
    )
    parts = [
        {
            "title": part.title,
            "table": render_table([dict(zip(part.columns, row, strict=True)) for row in rows]),
            "notes": part.notes,
        }
        for part, rows in chosen
    ]
    return EXPLANATION.render(shown=min(shown, results["patients"]), parts=parts)


def predictions(run: Path, labels: Path) -> str:
    """What was predicted of each new patient, beside the labels."""
    lines = read_patients(run / "predictions" / "predictions.parquet")
    known = read_labels(labels)
    rows: list[dict[str, str]] = []
    counts: Counter[str] = Counter()
    for line in lines:
        patient = str(line["patient_id"])
        page = f"predictions/{PAGES_FOLDER}/{page_name(patient)}"
        row: dict[str, str] = {"Patient": LINK.format(page, patient)}
        for group in ORGAN_TARGETS:
            label = group.classes[int(known.groups([patient])[group.name][0])]
            predicted = _tell(line, group.name)
            decided = predicted in group.classes
            counts[("right" if predicted == label else "wrong") if decided else predicted] += 1
            row |= {group.name: predicted, f"{group.name}, label": label}
        rows.append(row)
    grades = counts.total()
    return PREDICTIONS.render(
        patients=len(lines), grades=grades, counts=counts, table=render_table(rows)
    )


def card(run: Path) -> str:
    """How much of the two guidelines the model card fills, and what is left to write."""
    folder = run / "card"
    items = _read(folder / "model-card.json")["items"]
    counts = Counter((item["guideline"], item["status"]) for item in items)
    rows = [
        {"Guideline": guideline}
        | {status: str(counts[guideline, status]) for status in ("filled", "partly filled", "gap")}
        for guideline in dict.fromkeys(item["guideline"] for item in items)
    ]
    return CARD.render(
        files=sorted(path.name for path in folder.iterdir() if path.is_file()),
        table=render_table(rows),
        gaps=[item for item in items if item["gap"]],
    )


def _tell(line: Mapping[str, Any], group: str) -> str:
    """The class that was predicted, or that none was."""
    if line["status"] == "refused":
        return "refused"
    return "no decision" if line[f"abstained_{group}"] else str(line[f"predicted_{group}"])


def _interval(found: Mapping[str, float], form: str) -> str:
    value, low, high = (format(found[name], form) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def render_table(rows: Sequence[Mapping[str, str]]) -> Markup:
    """A table whose columns are the keys of the rows; empty without rows."""
    return Markup(TABLE.render(rows=rows) if rows else "")
