"""Every clause of voco_data/STORE.md has a test: this is the index, and it is complete."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.support.project import PROJECT
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.store.reader import Store

TESTS = PROJECT / "tests"
DOCUMENT = PROJECT / "voco_data" / "STORE.md"

CLAUSES: dict[int, tuple[str, ...]] = {
    1: ("voco_data/store/test_spec::test_digest_is_sha256_of_sorted_compact_json",),
    2: (
        "voco_data/store/test_spec::test_every_field_changes_the_digest",
        "voco_data/ingest/test_run::test_a_new_spec_takes_what_it_misses_and_leaves_the_other",
    ),
    3: ("voco_data/store/test_store::test_an_edited_spec_or_a_renamed_store_does_not_open",),
    4: ("voco_data/store/test_spec::test_two_specs_of_one_name_are_refused",),
    5: (
        "voco_data/store/test_store::test_zarr_python_reads_the_same_bytes",
        "voco_data/store/test_store::test_a_chunk_is_the_raw_volume_with_its_checksum",
    ),
    6: (
        "voco_data/ingest/test_run::test_the_stored_volume_is_upright_with_right_on_the_left",
        "voco_data/store/test_clauses::test_a_record_says_where_its_volume_was",
    ),
    7: ("voco_data/preprocessing/test_resampling::test_window_ends_and_rounding",),
    8: (
        "voco_data/preprocessing/test_resampling::test_shrinking_is_the_exact_area_average",
        "voco_data/preprocessing/test_resampling::test_growing_is_linear_at_the_centres",
    ),
    9: (
        "endurance/test_power_cut::test_a_power_cut",
        "endurance/test_power_cut::test_all_but_locks_is_durable_at_the_end",
        "endurance/test_kill::test_a_random_moment",
        "endurance/test_kill::test_every_change_of_a_file",
        "voco_data/executors/test_tasks::test_who_dies_before_a_record_has_left_its_preview",
    ),
    10: (
        "voco_data/store/test_store::test_a_damaged_chunk_is_refused_by_series_name",
        "voco_data/store/chunks/test_chunk_reader::test_a_file_that_was_replaced_is_checked_again",
        "voco_data/store/test_store::test_a_damaged_record_is_refused",
    ),
    11: (
        "voco_data/store/test_clauses::test_a_record_says_where_its_volume_was",
        "voco_data/store/test_organ_maps::test_the_coding_is_that_of_the_document",
        "voco_data/store/test_organ_maps::test_a_damaged_map_is_one_line_and_is_found_by_verify",
        "voco_data/store/test_organ_maps::test_a_forged_size_takes_no_memory",
        "voco_data/preprocessing/test_silhouettes::test_every_pixel_follows_the_rule",
    ),
    12: (
        "voco_data/ingest/test_run::test_a_moved_archive_still_hits",
        "voco_data/ingest/test_run::test_duplicate_volumes_are_marked_with_the_first_of_them",
        "voco_data/ingest/test_hostile_archives::test_a_mask_added_later_rebuilds_its_series_alone",
        "voco_data/ingest/test_hostile_archives::test_a_box_made_elsewhere_is_cut_and_is_part_of_the_input",
        "voco_data/ingest/test_organ_maps::test_a_mask_beside_a_given_box_is_a_part_of_the_input",
    ),
    13: (
        "voco_data/store/test_store::test_a_refused_series_leaves_a_hole",
        "voco_data/store/test_bit_rot::test_bookkeeping_is_made_again_and_no_volume_is_read_again",
        "voco_data/store/test_bit_rot::test_no_flip_in_a_catalogue_is_believed",
    ),
    14: (
        "voco_data/store/test_store::test_one_writer_at_a_time",
        "voco_data/ingest/test_two_runs::test_a_second_run_waits_or_says_why_not",
        "voco_data/ingest/test_two_runs::test_two_runs_with_their_specs_crosswise_do_not_wait_for_each_other",
    ),
    15: (
        "voco_data/store/test_store::test_rows_follow_the_sorted_keys_and_the_catalogue_the_rows",
        "voco_data/store/test_store::test_a_killed_run_is_taken_up_where_it_stopped",
        "voco_data/ingest/test_identity::test_two_studies_that_share_a_series_uid_are_two_stable_rows",
        "voco_data/ingest/test_identity::test_an_older_root_keeps_the_later_of_two_rows_of_a_series",
    ),
    16: (
        "voco_data/ingest/test_identity::test_a_series_that_grew_into_another_common_folder_replaces_its_row",
        "voco_data/store/test_store::test_a_changed_series_gets_a_new_row_and_leaves_its_old_one",
    ),
    17: (
        "voco_data/store/test_store::test_a_killed_run_is_taken_up_where_it_stopped",
        "endurance/test_kill::test_some_changes_of_a_file",
        "voco_data/store/test_row_ids::test_what_a_killed_run_committed_keeps_its_row",
        "voco_data/store/test_row_ids::test_what_was_replaced_does_not_return",
    ),
    18: (
        "voco_data/ingest/test_run::test_equal_pixels_of_two_patients_are_two_rows_in_any_order",
        "voco_data/ingest/test_identity::test_the_same_pixels_under_a_new_patient_id_get_a_row_of_their_own",
        "voco_data/ingest/test_identity::test_one_identity_with_two_contents_is_refused_and_overwrites_nothing",
        "voco_data/ingest/test_two_archives::test_archives_with_equal_paths_do_not_overwrite_each_other",
    ),
    19: (
        "voco_data/ingest/test_run::test_a_file_changed_in_place_is_noticed",
        "voco_data/ingest/test_run::test_deep_reads_again_and_changes_nothing",
    ),
    20: (
        "voco_data/ingest/test_run::test_ids_become_pseudonyms_and_labels_still_join",
        "voco_data/ingest/test_run::test_public_layouts_keep_their_ids",
        "voco_data/deidentification/test_id_mode::test_another_mode_is_refused_before_anything_is_written",
        "voco_data/deidentification/test_id_mode::test_public_archives_keep_their_ids_in_any_root",
    ),
    21: (
        "voco_data/deidentification/test_id_mode::test_a_missing_key_is_refused_and_not_replaced",
        "voco_data/ingest/test_run::test_ids_become_pseudonyms_and_labels_still_join",
        "voco_data/ingest/test_two_runs::test_one_key_however_many_make_it_at_once",
        "voco_data/ingest/test_two_runs::test_a_damaged_key_is_refused_not_replaced",
    ),
    22: (
        "voco_data/store/test_bit_rot::test_a_plain_rerun_finds_it_by_itself",
        "voco_data/store/test_bit_rot::test_deep_finds_what_left_no_trace",
        "voco_data/store/test_bit_rot::test_what_changes_while_it_is_checked_is_not_sealed",
        "voco_data/store/test_bit_rot::test_a_damaged_row_of_another_archive_stays_named",
    ),
    23: (
        "voco_data/store/test_bit_rot::test_deep_finds_what_left_no_trace",
        "voco_data/store/chunks/test_cache::test_the_error_of_a_damaged_object_names_what_finds_it",
        "voco_data/store/chunks/test_chunk_reader::test_a_lack_of_descriptors_is_not_blamed_on_the_store",
        "voco_data/store/test_store::test_a_table_is_not_damaged_because_descriptors_are_scarce",
    ),
    24: (
        "voco_data/store/test_bit_rot::test_bookkeeping_is_made_again_and_no_volume_is_read_again",
        "voco_data/store/test_bit_rot::test_lost_group_metadata_is_written_again",
        "voco_data/store/test_bit_rot::test_both_tables_lost_at_once",
        "voco_data/store/test_store::test_what_a_series_was_before_does_not_come_back",
    ),
    25: (
        "voco_data/store/test_bit_rot::test_a_damaged_row_is_named_and_rebuilt_alone",
        "voco_data/store/test_bit_rot::test_verify_names_damaged_metadata",
        "voco_data/store/test_bit_rot::test_verify_names_what_is_not_listed",
    ),
    26: (
        "endurance/test_kill::test_a_random_moment",
        "voco_data/storage/test_root::test_files_of_killed_runs_are_removed_and_those_of_training_stay",
        "voco_data/storage/test_root::test_no_run_sweeps_while_a_forget_writes",
    ),
    27: (
        "endurance/test_kill::test_a_random_moment",
        "voco_data/storage/test_locks::test_a_worker_of_a_run_that_was_killed_writes_nothing_in_the_next",
        "voco_data/storage/test_locks::test_a_commit_under_way_is_waited_for",
        "voco_data/storage/test_locks::test_the_next_holder_of_the_lock_keeps_late_workers_out",
        "endurance/test_kill_dask::test_workers_that_outlive_their_client_change_nothing",
        "endurance/test_kill_dask::test_a_worker_in_the_middle_of_a_commit_holds_up_the_next_run",
    ),
    28: (
        "voco_data/storage/test_object_store::test_a_large_object_goes_up_in_parts_and_is_there_whole_or_not_at_all",
        "voco_data/ingest/test_run_in_bucket::test_a_killed_run_is_gone_on_with",
    ),
    29: ("voco_data/storage/test_lease::test_one_at_a_time_and_the_token_grows",),
    30: (
        "voco_data/storage/test_lease::test_it_is_renewed_for_as_long_as_it_is_held",
        "voco_data/storage/test_lease::test_ctrl_c_gives_the_lease_back",
    ),
    31: (
        "voco_data/storage/test_lease::test_a_killed_holder_blocks_until_its_lease_ends",
        "voco_data/storage/test_lease::test_an_ended_lease_is_taken_without_waiting",
    ),
    32: (
        "voco_data/storage/test_lease::test_a_holder_that_comes_back_after_another_took_over_may_not_write",
        "voco_data/storage/test_lease::test_a_short_network_failure_does_not_cost_the_lease",
    ),
    33: (
        "voco_data/storage/test_object_store::test_the_lease_holder_replaces_only_versions_that_it_has_read",
        "voco_data/storage/test_object_store::test_a_run_without_its_lease_writes_and_removes_nothing",
        "voco_data/ingest/test_run_in_bucket::test_a_run_that_comes_back_from_a_long_sleep_changes_nothing",
    ),
    34: (
        "voco_data/storage/test_lease::test_an_answer_that_is_lost_does_not_cost_the_lease",
        "voco_data/storage/test_object_store::test_a_write_whose_answer_was_lost_is_recognised",
    ),
    35: ("voco_data/storage/test_lease::test_a_store_that_ignores_conditions_is_refused",),
    36: (
        "voco_data/ingest/test_run_in_bucket::test_a_run_that_comes_back_from_a_long_sleep_changes_nothing",
    ),
    37: (
        "voco_data/store/chunks/test_cache::test_a_damaged_copy_is_fetched_again",
        "voco_data/store/chunks/test_cache::test_a_damaged_object_is_never_kept",
        "voco_data/ingest/test_run_in_bucket::test_damage_is_found_where_it_is_and_not_in_the_cache",
    ),
    38: ("voco_data/ingest/test_run_in_bucket::test_names_stay_on_the_machine_that_has_the_key",),
    39: (
        "voco_data/maintenance/test_pins::test_pretraining_pins_every_store",
        "voco_data/maintenance/test_pins::test_a_pin_counts_while_its_run_names_the_spec",
        "voco_data/maintenance/test_pins::test_a_run_of_another_machine_is_believed",
    ),
    40: (
        "voco_data/maintenance/test_garbage::test_a_pinned_store_stays_and_says_who_uses_it",
        "voco_data/maintenance/test_garbage::test_what_an_interrupted_run_committed_is_no_leftover",
        "voco_data/maintenance/test_garbage::test_a_store_whose_tables_are_lost_keeps_its_volumes",
        "voco_data/erasure/test_in_bucket::test_without_its_leases_nothing_changes_any_more",
        "voco_data/erasure/test_in_bucket::test_a_gc_that_comes_back_from_a_long_sleep_removes_nothing",
        "voco_data/maintenance/test_garbage::test_a_busy_store_is_one_line_and_exit_code_1",
    ),
    41: (
        "voco_data/erasure/test_patient::test_a_forget_that_dies_anywhere_is_finished_by_the_next",
        "voco_data/erasure/test_in_bucket::test_what_dies_anywhere_is_finished_by_the_next",
    ),
    42: (
        "voco_data/deidentification/test_id_mode::test_forget_follows_every_pseudonym_of_the_map",
        "voco_data/erasure/test_patient::test_a_forget_that_dies_anywhere_is_finished_by_the_next",
    ),
    43: (
        "voco_data/ingest/test_pruning::test_a_series_that_two_archives_held_stays_until_both_have_lost_it",
        "voco_data/ingest/test_pruning::test_rows_without_a_known_archive_stay",
        "voco_data/ingest/test_pruning::test_damage_prunes_nothing",
        "voco_data/ingest/test_former_stacks::test_what_is_added_to_a_series_leaves_no_old_row",
    ),
    44: ("voco_data/ingest/test_pruning::test_a_killed_removal_is_completed_by_the_next",),
    45: ("voco_data/store/test_clauses::test_an_unknown_format_is_refused",),
}
"""Clause number → the tests that would fail if it did not hold."""


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / f"{file}.py").read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_clause_has_a_test_that_exists() -> None:
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", DOCUMENT.read_text(), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert set(CLAUSES) == set(numbers)
    named = [name.split("::") for names in CLAUSES.values() for name in names]
    assert [f"{file}::{name}" for file, name in named if name not in functions(file)] == []


def test_a_record_says_where_its_volume_was(tmp_path: Path) -> None:
    """The way back: a voxel that the test placed lies where the record's numbers put it."""
    from tests.support.ct_files import body, write_slices
    from voco_data.ingest.run import preprocess
    from voco_data.store.spec import StoreSpec

    hu = body()
    hu[17, 20:24, 40:44] = 1000
    write_slices(tmp_path / "ct", hu, spacing_mm=(5.0, 2.0, 2.0), origin_mm=(-60.0, -50.0, -100.0))
    spec = StoreSpec(profile="small", grid=(24, 60, 60), crop="none")
    (tmp_path / "spec.json").write_text(f"[{spec.canonical_json()}]")
    preprocess(tmp_path / "ct", tmp_path / "root", spec_file=tmp_path / "spec.json", workers=1)
    path = next((tmp_path / "root").glob("*.zarr/volumes/records/000000/000000000.json"))
    record = json.loads(json.loads(path.read_text())["record"])
    volume = Store.open(tmp_path / "root" / spec.name).read(0)
    # The brightest voxels of the stored volume, in mm, through the box alone.
    z, y, x = (float(axis.mean()) for axis in np.nonzero(volume == 255))
    low, high = np.array(record["box_low_mm"]), np.array(record["box_high_mm"])
    found = low + (np.array([z, y, x]) + 0.5) / np.array(spec.grid) * (high - low)
    # ... and where the scanner's header puts the block: origin and step of write_slices.
    block = np.array([-100.0 + 17 * 5.0, -50.0 + 21.5 * 2.0, -60.0 + 41.5 * 2.0])
    assert np.abs(found - block).max() < 0.1
    assert record["instance_numbers"] == list(range(1, 25))


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_an_unknown_format_is_refused(tmp_path: Path, number: object) -> None:
    store = make_store(tmp_path, random_volumes(1, (4, 8, 8)))
    metadata = json.loads((store.path / "zarr.json").read_text())
    metadata["attributes"]["voco"]["format"] = number
    (store.path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="store format"):
        Store.open(store.path)
