"""From new scans to predictions: preprocess, predict, and write structured reports.

The stage of prediction reads stores, and knows nothing of archives. The steps meet here, for the
command and for the flow `predict`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from voco_data import ingest, structured_report
from voco_data.errors import InputError
from voco_data.ingest import IngestOptions
from voco_models import stages


def predict_source(
    run: Path, source: Path, out: Path, options: IngestOptions, *, structured_reports: bool = False
) -> dict[str, object]:
    """Predict the patients of the archive at `source`; returns the summary.

    The series are preprocessed with the spec of the run, whatever specs `options` name. Raises
    InputError, with nothing written, for a run that cannot predict, a folder `out` that holds
    something else, and a source that cannot be read.
    """
    if structured_reports:
        structured_report.check_installed()
    exists = out.is_dir()
    is_used = exists and any(out.iterdir())
    prepared = stages.prepare_prediction(run, out, boxes_given=options.boxes is not None)
    options = replace(options, spec_file=prepared.spec_file)
    try:
        preprocessed = ingest.preprocess(source, prepared.root, options)
    except InputError:
        if not is_used:
            stages.discard_preparation(prepared, folder_too=not exists)
        raise
    predicted = stages.predict(
        run,
        preprocessed.stores[prepared.spec.profile],
        out,
        ledger=preprocessed.ledger,
    )
    summary = predicted.to_json() | {
        "preprocess": {
            "series": preprocessed.series,
            "stored": preprocessed.stored,
            "cached": preprocessed.cached,
            "refused": preprocessed.refused,
            "ledger": preprocessed.ledger,
            "report": preprocessed.report,
            "seconds": preprocessed.seconds,
        }
    }
    if structured_reports:
        summary["structured_reports"] = structured_report.write_structured_reports(
            predicted.table,
            source,
            prepared.root,
            out / structured_report.FOLDER,
            replace(options, progress=False),
            version=predicted.version,
            parameters=(f"run {predicted.digest}",),
        ).to_json()
    return summary
