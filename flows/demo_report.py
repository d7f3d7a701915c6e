"""The report of the demo: the recipe, the archives, training, the scores, and what follows them.

It lies in the folder of the run, beside the pages that it links to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from markupsafe import Markup

from flows import demo_parts
from flows.demo_recipes import DemoRecipe
from voco_data.qc import ENVIRONMENT, Section, ingest_sections, render_page
from voco_data.storage import open_storage
from voco_models.evaluation import Line, line_plot, report
from voco_models.stages import finetune_recipe
from voco_models.training import checkpoint, read_history

RECIPE: Final = ENVIRONMENT.from_string("""
<p>This cohort is made up: bodies are drawn from a seed, some organs are injured, and the scans are
written in the layouts of RATIC and FLARE23. It shows that all stages work. Its scores say nothing
about patients. Everything below is of one run with one seed.</p>
<table>
{% for name, value in rows.items() %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
""")
PRETRAINING: Final = ENVIRONMENT.from_string("""
<figure>
{{ chart }}
<figcaption>2D-VoCo on {{ volumes }} scans, without labels: the loss and its parts. {{ left_out }}
scans of test patients are left out.</figcaption>
</figure>
""")


def demo_page(
    recipe: DemoRecipe,
    seed: int,
    run: Path,
    root: Path,
    ledgers: Mapping[str, str],
    new_labels: Path,
) -> str:
    """The page as text.

    `run` holds pretrain, finetune (evaluated), explanation, predictions, card, heads.json and
    experiment.json;
    `root` holds the stores; `ledgers` maps the name of each archive to the ledger of its
    preprocessing; `new_labels` are the labels of the patients that were predicted.
    """
    folds = finetune_recipe(recipe.finetune).n_folds
    settings = asdict(replace(recipe, seed=seed)) | {"folds": folds}
    sections = [
        Section("The recipe", RECIPE.render(rows=settings)),
        Section("Pages of this run", demo_parts.list_pages(run)),
    ]
    for archive, ledger in ledgers.items():
        sections += [
            replace(section, title=f"{archive}: {section.title[0].lower()}{section.title[1:]}")
            for section in ingest_sections(Path(ledger), open_storage(root))
        ]
    sections.append(Section("Pretraining", _pretraining(run / "pretrain")))
    sections += report.make_sections(run / "finetune", paper=False)
    sections += [
        Section("Table 1, beside the paper's", demo_parts.table_1(run)),
        Section("Heads on cached features", demo_parts.heads(run, recipe.head_epochs)),
        Section("Arms and labels", demo_parts.arms(run, recipe.experiment_changes)),
        Section("Explanations", demo_parts.explanation(run, recipe.explained_patients)),
        Section("Predictions of new patients", demo_parts.predictions(run, new_labels)),
        Section("The model card", demo_parts.card(run)),
    ]
    lead = f"From made-up scans to a trained classifier. Recipe {recipe.name}, seed {seed}."
    return render_page("voco demo", sections, lead=lead)


def _pretraining(run: Path) -> str:
    rows = read_history(run)
    steps = [row["step"] for row in rows]
    parts = ("loss", "intra", "inter", "reg")
    lines = [Line(part, steps, [row[part] for row in rows]) for part in parts]
    chart = line_plot(lines, title="Pretraining loss", x_label="step", y_label="loss")
    selection = checkpoint.read_run(run)["provenance"]["selection"]
    left_out = selection["left_out"].get("test", 0)
    return PRETRAINING.render(chart=Markup(chart), volumes=selection["volumes"], left_out=left_out)
