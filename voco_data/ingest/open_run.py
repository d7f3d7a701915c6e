"""What a run of the preprocess stage has open, and the steps of the run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from voco_data.cohort import Cohort
from voco_data.cropping import GivenBox
from voco_data.deidentification import Pseudonymiser, pseudonyms
from voco_data.errors import InputError, StoreCorrupt, translate_unwritable
from voco_data.executors import KnownInputs, SeriesOutcome, SeriesTask, run_dask, run_processes
from voco_data.ingest.archives import Archives, archive_id, archive_place
from voco_data.ingest.cohort_keys import CohortKeys
from voco_data.ingest.damaged_files import DamagedFiles
from voco_data.ingest.disk_space import check_disk_space
from voco_data.ingest.former_stacks import FormerStacks
from voco_data.ingest.held_elsewhere import exclude_held_elsewhere
from voco_data.ingest.named_cohort import NamedCohort
from voco_data.ingest.options import IngestOptions
from voco_data.ingest.other_archives import OtherArchives
from voco_data.ingest.plan import IngestPlan, group_by_rules
from voco_data.ingest.pruning import (
    GoneSeries,
    check_can_prune,
    find_gone_series,
    release_gone_series,
    remove_gone_series,
    warn_of_new_source,
)
from voco_data.ingest.repeated_ids import exclude_repeated_ids
from voco_data.ingest.results import RunResults, is_stored, ledger_rows, results_of
from voco_data.ingest.root_ids import check_ids, open_pseudonymiser
from voco_data.ingest.seen_files import EarlierResult, SeenFiles
from voco_data.qc import LedgerRow
from voco_data.reasons import TRANSIENT
from voco_data.storage import Storage, atomic, open_storage, root_in_use, store_names
from voco_data.store import StoreSpec, StoreWriter, catalogue, open_for_writing, read_spec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run over one archive: its series, the stores under their locks, and what it has learnt.

    The steps are called in the order of the methods.
    """

    root: Storage
    options: IngestOptions
    cohort: NamedCohort
    keys: CohortKeys
    stores: list[StoreWriter]
    """The stores that the run fills."""
    all_stores: list[StoreWriter]
    """These, and to prune all others of the root."""
    seen_files: SeenFiles
    results: RunResults
    archives: Archives
    archive: str
    """The id of SOURCE in `archives`."""
    place: str
    """Its path, as `archives` keeps it; empty where ids are hidden."""
    others: OtherArchives
    pseudonymiser: Pseudonymiser | None

    @property
    def trusted_files(self) -> SeenFiles | None:
        """What earlier runs have learnt of the files; None if the run reads all of them again."""
        return None if self.options.deep else self.seen_files

    def exclude_conflicts(self) -> None:
        """Exclude the series that cannot have the row of their ids, and record what SOURCE holds.

        SOURCE is recorded before any work: what a killed run has stored came from this archive.
        """

        def read_digests(tasks: Sequence[SeriesTask]) -> Iterator[SeriesOutcome]:
            return self._read(tasks, {})

        exclude_repeated_ids(
            self.root, self.cohort, self.keys, self.stores, self.trusted_files, read_digests
        )
        elsewhere = exclude_held_elsewhere(
            self.root,
            self.cohort,
            self.keys,
            self.stores,
            self.trusted_files,
            read_digests,
            self.others,
        )
        self.archives.add(self.archive, self.place, self.keys.with_uid_keys())
        self.archives.remove(self.archive, elsewhere)  # their rows are those of another archive
        self.archives.save()

    def make_plan(self) -> IngestPlan:
        """Make the plan: the series that each store lacks. The caller closes it."""
        plan = IngestPlan(self.root, self.cohort, self.keys, self.stores, self.trusted_files)
        check_disk_space(self.root, plan.new_series)
        return plan

    def fill_stores(self, plan: IngestPlan) -> None:
        """Read the series of the plan into the stores."""
        for _ in self._read(plan.tasks, plan.known_inputs):
            pass
        for store in self.stores:
            store.compact()

    def replace_former_stacks(self, damaged: DamagedFiles) -> set[int]:
        """Remove the rows of former stacks; returns the refused series of which such rows stay.

        A run over a part of SOURCE leaves them all.
        """
        former = FormerStacks(
            self.archives,
            self.archive,
            self.keys,
            self.stores,
            self.others,
            damaged,
            self._is_stored,
        )
        if not (self.options.include or self.options.exclude):
            former.replace(self.root)
        return former.refused_with_volume

    def prune(self, damaged: DamagedFiles) -> list[GoneSeries]:
        """Find the rows whose series SOURCE no longer holds, and remove them if `yes` is set."""
        if not self.options.prune:
            return []
        gone = find_gone_series(
            self.archives,
            self.archive,
            self.keys,
            self.all_stores,
            self.options,
            self.others,
            damaged,
        )
        if self.options.yes:
            remove_gone_series(gone, self.all_stores)
        return gone

    def ledger_rows(
        self, refused_with_volume: set[int], gone: Sequence[GoneSeries]
    ) -> Iterator[LedgerRow]:
        """Iterate over the rows of the ledger."""
        yield from ledger_rows(
            self.cohort,
            self.keys,
            self.results,
            self.seen_files,
            self.stores,
            refused_with_volume,
        )
        for series in gone:
            yield series.to_ledger_row(removed=self.options.yes)

    def finish(self, gone: Sequence[GoneSeries]) -> None:
        """Record which archive holds what, and whom the pseudonyms stand for."""
        if self.options.prune and self.options.yes:
            release_gone_series(
                self.archives, self.archive, self.keys, self.options, self.others, gone
            )
        elif gone:
            log.info("gone: %d series; nothing was removed; --yes removes them", len(gone))
        self.archives.save()
        if self.pseudonymiser is not None:
            pseudonyms.merge_into_map(self.root, self.pseudonymiser)

    def _read(
        self, tasks: Sequence[SeriesTask], known_inputs: KnownInputs
    ) -> Iterator[SeriesOutcome]:
        """Run all tasks, and record each outcome: in the results, the stores and the seen files."""
        by_spec = {store.spec.digest: store for store in self.stores}
        for outcome in _run_tasks(tasks, known_inputs, self.options):
            self.results.add(outcome)
            for record in outcome.records:
                by_spec[record.spec_digest].add_record(record)
            if outcome.reason not in TRANSIENT:
                result = EarlierResult(outcome.input_digest, outcome.reason, outcome.detail)
                self.seen_files.set(outcome.seen_key, result)
            yield outcome

    def _is_stored(self, number: int, store: StoreWriter) -> bool:
        """Whether a store has a series with the contents that it has now."""
        series = self.cohort[number]
        exclusion, _ = self.keys.exclusion(number) or (None, -1)
        groups = group_by_rules(self.stores)
        found = results_of(series, exclusion, self.results, groups, self.seen_files)
        return is_stored(series, exclusion, found, store)


@contextmanager
def open_run(
    source: str | Path,
    root: Storage,
    specs: Sequence[StoreSpec],
    cohort: Cohort,
    boxes: Mapping[str, GivenBox],
    options: IngestOptions,
) -> Iterator[OpenRun]:
    """Open what a run needs: its root, and the stores of `specs` under their locks.

    Raises:
        InputError: The root cannot be used for this archive and these options; nothing is written.
        StoreBusy: Another run holds a store for longer than `options.wait` seconds.
        VocoError: There is too little space; or, while the run is open, the root became full or
            read-only.
    """
    if options.prune:
        check_can_prune(source, cohort)
    root = _prepare_root(root)
    check_ids(root, cohort, options)
    # Space is checked twice. Here, before anything is written, by the number of series that the
    # stores lack at least; after the plan, which needs the stores' locks, by the exact number.
    check_disk_space(root, {spec: _min_new_series(root, spec, len(cohort)) for spec in specs})
    with ExitStack() as stack:
        stack.enter_context(translate_unwritable(root))
        stack.enter_context(root_in_use(root))
        pseudonymiser = open_pseudonymiser(root, cohort, options)
        named_cohort = NamedCohort(cohort, pseudonymiser, boxes, options.burned_in)
        named_cohort.check_boxes()
        by_spec = _open_stores(stack, root, specs, options)
        archives = stack.enter_context(closing(Archives(root)))
        place = archive_place(Path(source), root)
        archive = archive_id(place, pseudonymiser)
        others = OtherArchives(archives, archive, Path(source), root)
        if options.prune:
            warn_of_new_source(archives, archive, others)
        run = OpenRun(
            root=root,
            options=options,
            cohort=named_cohort,
            keys=stack.enter_context(closing(CohortKeys(named_cohort))),
            stores=[by_spec[spec] for spec in specs],
            all_stores=list(by_spec.values()),
            seen_files=stack.enter_context(closing(SeenFiles(root))),
            results=stack.enter_context(closing(RunResults())),
            archives=archives,
            archive=archive,
            place="" if pseudonymiser else place,
            others=others,
            pseudonymiser=pseudonymiser,
        )
        for store in run.stores:
            run.seen_files.add_digests(store.index.digests(), store.spec)
        yield run


def _prepare_root(root: Storage) -> Storage:
    """Make the root, and check that it can be written. Raises InputError."""
    folder = root.local_folder()
    if folder is None:
        next(root.list_folders(), None)  # one request: the bucket exists, and may be listed
        return root
    is_new = not folder.exists()
    try:
        atomic.make_folders(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if is_new and folder.is_dir():
            folder.rmdir()
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); give a folder of your own as --root"
        ) from error
    return open_storage(folder.resolve())


def _min_new_series(root: Storage, spec: StoreSpec, n_series: int) -> int:
    """Minimum number of `n_series` series that a store lacks, by the lines of its catalogue."""
    try:
        n_stored = catalogue.count_lines(root / spec.name)
    except StoreCorrupt:  # the run rebuilds the catalogue; until then all series count as new
        n_stored = 0
    return max(0, n_series - n_stored)


def _open_stores(
    stack: ExitStack, root: Storage, specs: Sequence[StoreSpec], options: IngestOptions
) -> dict[StoreSpec, StoreWriter]:
    """The stores under their locks, taken in the order of their names to prevent a deadlock.

    To prune, all other stores of the root are opened, too.
    """
    to_open = {spec.name: spec for spec in specs}
    if options.prune:
        for name in store_names(root):
            if name not in to_open:
                to_open[name] = _read_spec_to_prune(root, name)
    return {
        spec: stack.enter_context(
            open_for_writing(root, spec, wait_seconds=options.wait, deep=options.deep)
        )
        for _, spec in sorted(to_open.items())
    }


def _read_spec_to_prune(root: Storage, name: str) -> StoreSpec:
    try:
        return read_spec(root / name)
    except InputError as error:
        raise InputError(
            f"{error}; nothing was pruned: such a store may hold series that are gone, remove it "
            "first (voco store gc --store)"
        ) from error


def _run_tasks(
    tasks: Sequence[SeriesTask], known_inputs: KnownInputs, options: IngestOptions
) -> Iterator[SeriesOutcome]:
    """Run all tasks; a bar shows series per second and the time left."""
    total = len(tasks)
    if options.dask is not None:
        results = run_dask(tasks, known_inputs, options.dask, options.n_workers)
    else:
        results = run_processes(tasks, known_inputs, min(options.n_workers, max(1, total)))
    with tqdm(total=total, unit="series", desc="preprocess", disable=not options.progress) as bar:
        for outcomes in results:
            yield from outcomes
            bar.update(len(outcomes))
