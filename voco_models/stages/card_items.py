"""The items of two reporting guidelines, and what fills each of them in a model card.

CLAIM: Tejani et al., "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024
Update", Radiology: Artificial Intelligence 6(4), e240300. TRIPOD+AI: Collins et al., BMJ 385,
e078378 (2024), Table 2. Numbers are those of the lists; the words are ours, and shorter.
docs/model-card.md says what they were checked against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

CLAIM, TRIPOD = "CLAIM 2024", "TRIPOD+AI"
NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a guideline."""

    guideline: str
    number: str
    topic: str
    fact: str | None
    """Name of the fact of the run that fills it; None if no run records it."""
    gap: str | None
    """What a run does not record; None if the fact says all."""


@dataclass(frozen=True, slots=True)
class FilledItem:
    """One item of a card. It has a text, a gap, or both."""

    guideline: str
    number: str
    topic: str
    status: str
    """`filled`, `partly filled` or `gap`."""
    text: str | None
    gap: str | None
    """What is not recorded."""

    def to_json(self) -> dict[str, str | None]:
        """The item as plain values."""
        return asdict(self)


def fill_items(facts: Mapping[str, str | None]) -> list[FilledItem]:
    """All items, from the facts by name; a fact that is None is a gap. KeyError for a missing one.

    So an item is never left out: what no fact says is named as not recorded.
    """
    filled = []
    for item in ITEMS:
        text = None if item.fact is None else facts[item.fact]
        gap = item.gap
        if text is None and gap is None:
            gap = item.topic.lower()
        status = "gap" if text is None else "filled" if gap is None else "partly filled"
        filled.append(FilledItem(item.guideline, item.number, item.topic, status, text, gap))
    return filled


_CLAIM: Final = (
    ("1", "Kind of AI", "kind", None),
    ("2", "Summary", "summary", None),
    ("3", "Background and intended use", "use", "the clinical background"),
    ("4", "Aims and hypotheses", None, "the aims and hypotheses of the study"),
    ("5", "Prospective or retrospective", None, "whether data were collected before or after"),
    ("6", "Goal of the study", None, "the goal of the study"),
    ("7", "Data sources", "sources", "the hospitals and the dates of the scans"),
    ("8", "Inclusion and exclusion", "criteria", "how patients were found and chosen"),
    ("9", "Preprocessing", "preprocessing", None),
    ("10", "Selection of subsets of the data", "view", None),
    ("11", "De-identification", None, "how the scans were de-identified before they were read"),
    ("12", "Missing data", "missing", None),
    ("13", "Acquisition of the images", None, "scanners, protocols and contrast phases"),
    ("14", "Reference standard", "reference", "how the labels were made"),
    ("15", "Reason for the reference standard", None, "why this reference standard was chosen"),
    ("16", "Source of the annotations", None, "who annotated, and with which training"),
    ("17", "Annotation of the test set", None, "how the test set was annotated"),
    ("18", "Variability of the annotations", None, "agreement between and within readers"),
    ("19", "How partitions were made", "partitions", None),
    ("20", "Level at which partitions are disjoint", "disjoint", None),
    ("21", "Intended size of the test set", None, "how the sample size was chosen"),
    ("22", "The model", "model", None),
    ("23", "Software", "software", None),
    ("24", "Initial parameters", "initial", None),
    ("25", "Training", "training", "the hardware"),
    ("26", "Choice of the final model", "final", "how the recipe was chosen"),
    ("27", "Ensembling", "ensemble", None),
    ("28", "Metrics", "metrics", None),
    ("29", "Uncertainty and significance", "uncertainty", None),
    ("30", "Robustness", None, "an analysis of robustness or sensitivity"),
    ("31", "Explainability", "explanation", None),
    ("32", "Testing on internal data", "internal", None),
    ("33", "Testing on external data", None, "a test on data of other hospitals"),
    ("34", "Registration of a trial", None, "the registration of a clinical trial"),
    ("35", "Numbers included and excluded", "numbers", "who was excluded before the store"),
    ("36", "Characteristics by partition", "characteristics", "age, sex and causes of injury"),
    ("37", "Performance and its uncertainty", "performance", None),
    ("38", "Diagnostic performance and precision", "by_organ", None),
    ("39", "Failures", None, "an analysis of wrong results"),
    ("40", "Limitations", "limitations", "limitations that the authors see"),
    ("41", "Implications for practice", "use", "the clinical role"),
    ("42", "Protocol and further details", "details", None),
    ("43", "Availability", "availability", "where software and data can be had, and a licence"),
    ("44", "Funding", None, "funding, and the role of funders"),
)
_TRIPOD: Final = (
    ("1", "Title", "kind", "the target population"),
    ("2", "Abstract", "summary", None),
    ("3a", "Healthcare context", None, "the healthcare context, and existing models"),
    ("3b", "Target population and users", "use", "the target population, the place in care"),
    ("3c", "Health inequalities", None, "known health inequalities"),
    ("4", "Objectives", None, "the objectives of the study"),
    ("5a", "Sources of data", "sources", "how representative the data are"),
    ("5b", "Dates", None, "the dates of the scans"),
    ("6a", "Setting", None, "the number and location of centres"),
    ("6b", "Eligibility", "criteria", "how patients were found and chosen"),
    ("6c", "Treatments", None, "treatments"),
    ("7", "Data preparation", "preprocessing", "differences between sociodemographic groups"),
    ("8a", "Outcome", "reference", "how and when the outcome was assessed"),
    ("8b", "Assessors of the outcome", None, "qualifications of the assessors"),
    ("8c", "Blinding", None, "whether the assessment was blinded"),
    ("9a", "Choice of predictors", "predictors", None),
    ("9b", "Definition of predictors", "preprocessing", "how and when the scans were made"),
    ("9c", "Assessors of predictors", "predictors", None),
    ("10", "Sample size", "numbers", "how the sample size was chosen"),
    ("11", "Missing data", "missing", None),
    ("12a", "Use of the data", "partitions", None),
    ("12b", "Handling of predictors", "view", None),
    ("12c", "Kind of model, building, validation", "training", "how options were tuned"),
    ("12d", "Heterogeneity between clusters", None, "hospitals, and differences between them"),
    ("12e", "Measures of performance", "metrics", None),
    ("12f", "Updating after evaluation", "final", None),
    ("12g", "How predictions are made", "ensemble", None),
    ("13", "Class imbalance", "imbalance", None),
    ("14", "Fairness", None, "approaches to fairness"),
    ("15", "Output of the model", "output", None),
    ("16", "Differences of training and evaluation data", "limitations", None),
    ("17", "Ethical approval", None, "the ethical approval, and consent"),
    ("18a", "Funding", None, "funding, and the role of funders"),
    ("18b", "Conflicts of interest", None, "conflicts of interest"),
    ("18c", "Protocol", None, "a study protocol"),
    ("18d", "Registration", None, "a registration"),
    ("18e", "Data sharing", None, "whether the data can be had"),
    ("18f", "Code sharing", "software", "where the code can be had"),
    ("19", "Patients and the public", None, "involvement of patients and the public"),
    ("20a", "Flow of participants", "numbers", "who was excluded before the store"),
    ("20b", "Characteristics", "characteristics", "age, sex and causes of injury"),
    (
        "20c",
        "Development and evaluation compared",
        "characteristics",
        "predictors and demographics",
    ),
    ("21", "Participants and events in each analysis", "characteristics", None),
    ("22", "The full model", "model", "restrictions to its use"),
    ("23a", "Performance", "performance", "performance in subgroups"),
    ("23b", "Heterogeneity between clusters", None, "performance by hospital"),
    ("24", "Results of updating", "final", None),
    ("25", "Interpretation", None, "an interpretation of the results"),
    ("26", "Limitations", "limitations", "limitations that the authors see"),
    ("27a", "Poor or missing input", "bad_input", None),
    ("27b", "Users and their expertise", None, "how users interact, and their expertise"),
    ("27c", "Next steps", None, "next steps, and how far results generalise"),
)
ITEMS: Final = tuple(
    Item(guideline, *entry)
    for guideline, entries in ((CLAIM, _CLAIM), (TRIPOD, _TRIPOD))
    for entry in entries
)
"""Every item of both guidelines, in their order."""
