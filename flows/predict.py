"""run + new scans → predictions: the flow `predict`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.prediction_steps import predict_source
from flows.retries import worth_retrying
from flows.run_names import name_run
from flows.summary import Summary, to_json_values
from voco_data.ingest import IngestOptions, LayoutName


@task(
    name="predict patients",
    cache_policy=NO_CACHE,  # a rerun takes the series from the stores in `out`
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def predict_patients(
    run: Path, source: Path, out: Path, options: IngestOptions, *, structured_reports: bool
) -> Summary:
    """Preprocess the scans as those of the run, and predict them with the models of all folds."""
    return to_json_values(
        predict_source(run, source, out, options, structured_reports=structured_reports)
    )


@flow(name="predict", flow_run_name=name_run)
def predict(
    run: Path,
    source: Path,
    out: Path,
    sr: bool = False,
    layout: LayoutName = "auto",
    workers: int | None = None,
    keep_ids: bool = False,
    boxes: Path | None = None,
) -> Summary:
    """Grade the injuries of new patients with a finished fine-tuning run.

    Args:
        run: Folder of a finished fine-tuning run.
        source: Folder or file with DICOM or NIfTI.
        out: Where to write; a new folder, or that of an earlier prediction of the same run.
        sr: Also write a DICOM Structured Report for each study.
        layout: How source is laid out; auto finds out.
        workers: Local processes; by default as many as the machine allows.
        keep_ids: Keep patient and series ids instead of pseudonyms.
        boxes: Table of boxes of the new series, for runs that learnt from given boxes.
    """
    options = IngestOptions(layout=layout, workers=workers, keep_ids=keep_ids, boxes=boxes)
    summary = predict_patients(run, source, out, options, structured_reports=sr)
    publish("predict", summary, link=summary["index"])
    return summary
