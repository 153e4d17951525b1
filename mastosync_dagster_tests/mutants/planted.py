"""The list of planted bugs: what is changed where, and which tests are expected to fail then."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A planted bug.

    Attributes:
        what: What the code does wrong with it, as an id.
        file: Below ``mastosync_dagster/``.
        before: A text that occurs once there.
        after: What stands in its place.
        tests: What pytest is given, below ``mastosync_dagster_tests/``. A test behind ``::`` stands for all whose names
            begin so.
    """

    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTANTS = (
    # --- bodies ------------------------------------------------------------------------------------------------------
    Mutant(
        "a-body-that-its-etag-disproves-is-taken",
        "copy/single.py",
        "if agrees is False and await etag_is_md5(self.source, key):",
        "if False:",
        ("copy/test_copying_faults.py::test_a_transient_fault_of_the_source_is_repeated",),
    ),
    Mutant(
        "the-reply-to-a-put-is-not-looked-at",
        "copy/single.py",
        "if etag != body.md5:",
        "if False:",
        (
            "copy/test_copying_faults.py::test_where_the_reply_to_a_put_proves_nothing_the_object_is_looked_at",
            "copy/test_copying_faults.py::test_a_transient_fault_of_the_destination_is_repeated",
        ),
    ),
    Mutant(
        "the-size-of-what-was-written-is-not-compared",
        "copy/integrity.py",
        "if found.size != size:\n        raise body_error(destination,",
        "if False:\n        raise body_error(destination,",
        ("copy/test_copying_faults.py::test_an_object_that_is_kept_with_another_length_is_written_again",),
    ),
    Mutant(
        "a-page-with-status-200-is-taken-for-the-object",
        "copy/integrity.py",
        "    if size == planned.size or source.storage.settings.is_folder:\n        return\n",
        "    if size is not None:\n        return\n",
        ("copy/test_copying_faults.py::test_an_error_page_with_status_200_is_not_taken_for_the_object",),
    ),
    Mutant(
        "an-upload-in-parts-is-published-unproven",
        "copy/multipart.py",
        "            await self._check_source(digests, reading, work)\n",
        "",
        (
            "copy/test_copying_faults.py::test_a_large_object_that_is_damaged_at_every_reading_is_never_published",
            "copy/test_copying_faults.py::test_a_large_object_arrives_whole_whatever_happens_to_it_at_the_source",
        ),
    ),
    Mutant(
        "an-upload-that-failed-stays-open",
        "copy/multipart.py",
        "            await self._clean_up(upload, upload.abort)\n            raise",
        "            raise",
        ("copy/test_copying_faults.py::test_a_large_object_that_fails_leaves_no_upload_behind",),
    ),
    Mutant(
        "a-body-is-sent-without-its-md5",
        "s3/client.py",
        "    return [] if md5 is None else",
        "    return [] if md5 is None or md5 else",
        ("copy/test_copying.py::test_every_body_is_sent_with_its_md5_as_a_bucket_with_object_lock_wants_it",),
    ),
    Mutant(
        "what-the-server-copied-by-itself-is-not-compared",
        "copy/server_side.py",
        "        if size != wanted_size:\n            return False\n        differ = is_md5(made)",
        "        differ = False and is_md5(made)",
        ("copy/test_server_side.py",),
    ),
    # --- what is compared, and decided -------------------------------------------------------------------------------
    Mutant(
        "sizes-alone-are-believed",
        "plan/equality.py",
        "if here.etag == there.etag or not (is_md5(here.etag) and is_md5(there.etag)):",
        "if here.etag == there.etag or here.size == there.size:",
        ("plan/test_planner.py::test_what_is_equal_is_present_and_what_is_absent_or_differs_is_copied",),
    ),
    Mutant(
        "etags-alone-are-believed",
        "plan/equality.py",
        "        if here.size != there.size:\n            return False\n",
        "",
        ("plan/test_planner.py",),
    ),
    Mutant(
        "a-listing-is-believed",
        "plan/planner.py",
        "        if listed[0] or (listed[1] and not item.may_be_absent):\n",
        "        if False:\n",
        (
            "plan/test_planner.py::test_nothing_is_missing_on_the_word_of_a_listing_alone",
            "plan/test_planner.py::test_what_only_the_destination_has_is_not_missing_because_its_listing_lacks_it",
        ),
    ),
    Mutant(
        "one-private-owner-does-not-suffice",
        "plan/planner.py",
        "if item.private and not known.private:",
        "if item.private and known.private:",
        ("plan/test_planner.py::test_items_of_one_key_are_one_object_and_private_if_any_is",),
    ),
    Mutant(
        "a-size-that-the-row-names-is-overwritten",
        "plan/decisions.py",
        "    if row.size == destination.size != source.size:",
        "    if False:",
        ("plan/test_decisions.py", "plan/test_planner.py::test_what_is_as_long_as_it_must_be_is_not_overwritten"),
    ),
    Mutant(
        "rot-at-the-source-overwrites-the-copy",
        "plan/decisions.py",
        "        # What was copied is still there.\n        return Decision.SOURCE_CHANGED",
        "        return Decision.DAMAGED",
        ("plan/test_decisions.py",),
    ),
    Mutant(
        "what-nothing-decides-is-overwritten",
        "plan/decisions.py",
        "    return Decision.UNDECIDED",
        "    return Decision.OLDER",
        ("plan/test_decisions.py",),
    ),
    Mutant(
        "a-row-that-is-gone-is-copied-over",
        "plan/decisions.py",
        "    if row.not_found:",
        "    if False:",
        ("plan/test_decisions.py",),
    ),
    Mutant(
        "what-was-written-since-the-plan-is-overwritten",
        "copy/object_copier.py",
        "            if found is None or (found.size == size and _may_be(found.etag, bare(etag))):\n",
        "            if True:\n",
        ("copy/test_overwriting.py",),
    ),
    Mutant(
        "an-older-object-is-copied-as-new",
        "copy/single.py",
        "            if modified is not None and modified <= self._after:\n",
        "            if False:\n",
        ("plan/test_new_objects.py", "copy/test_server_side.py::test_what_is_older_than_anything_new_is_not_copied"),
    ),
    Mutant(
        "a-listing-ends-at-its-first-page",
        "s3/storage.py",
        "            if not page.truncated or (last is not None and last >= end):\n",
        "            if True:\n",
        ("s3/test_storage.py::test_a_range_includes_its_start",),
    ),
    Mutant(
        "a-length-that-nobody-names-is-nothing",
        "s3/headers.py",
        "isdecimal() else None\n",
        "isdecimal() else 0\n",
        ("copy/test_odd_answers.py::test_an_object_whose_length_nobody_names_is_copied_whole",),
    ),
    Mutant(
        "a-longer-body-is-cut-to-the-planned-length",
        "copy/multipart.py",
        "        if reading.pipe.wrong or await reading.pipe.piece(1) is not None:\n",
        "        if False:\n",
        ("copy/test_odd_answers.py::test_a_body_without_a_length_that_is_not_as_planned_is_not_published",),
    ),
    Mutant(
        "any-part-is-the-rest-of-the-object",
        "copy/reading.py",
        "            goes_on = is_part and self._is_rest(reply)\n",
        "            goes_on = is_part\n",
        ("copy/test_odd_answers.py::test_the_rest_of_another_object_is_not_put_behind_the_beginning_of_one",),
    ),
    Mutant(
        "a-proxy-s-404-makes-an-object-missing",
        "s3/errors.py",
        " else _FOREIGN if error.is_foreign else _NO_OBJECT\n",
        " else _NO_OBJECT\n",
        ("copy/test_odd_answers.py::test_what_a_proxy_says_of_an_object_makes_none_missing",),
    ),
    # --- who may read it ---------------------------------------------------------------------------------------------
    Mutant(
        "private-objects-get-the-permission",
        "s3/storage.py",
        '"private" if private else self.settings.permission',
        "self.settings.permission",
        ("copy/test_copying_moto.py::test_an_object_gets_the_permission_unless_it_is_private",),
    ),
    Mutant(
        "an-acl-is-set-where-none-was-shown",
        "s3/acl.py",
        "    if not acl.is_acl:  # the object itself, or an empty page\n",
        "    if False:\n",
        ("s3/test_acl.py::test_an_object_on_a_server_that_takes_an_acl_for_a_body_stays_as_it_is",),
    ),
    Mutant(
        "an-acl-that-empties-objects-is-not-noticed",
        "s3/acl.py",
        "(after.size, after.etag) != (before.size, before.etag)",
        "after.size is None",
        ("s3/test_acl.py::test_an_acl_that_empties_an_object_is_noticed_at_the_first_one",),
    ),
    Mutant(
        "any-acl-is-private-enough",
        "s3/acl.py",
        "    return not readers & _PUBLIC_GROUPS if private",
        "    return True if private",
        ("s3/test_acl.py::test_an_acl_is_set_and_read",),
    ),
    Mutant(
        "a-public-policy-is-not-noticed",
        "s3/probes.py",
        "        answer = everybody_reads(storage, probe)\n",
        "        answer = False\n",
        ("s3/test_probes.py::test_a_policy_that_lets_everybody_read_a_folder_is_noticed",),
    ),
    Mutant(
        "a-policy-for-an-extension-is-not-noticed",
        "s3/probes.py",
        "            parts = {(folder, start), (folder, end)}\n",
        "            parts = {(folder, start)}\n",
        ("s3/test_probes.py::test_of_very_many_kinds_of_keys_a_few_are_probed",),
    ),
    Mutant(
        "an-acl-that-is-ignored-is-not-noticed",
        "s3/acl.py",
        "    if has_acl(storage, key, private=private, halt=halt):\n        return\n",
        "    if True:\n        return\n",
        ("s3/test_probes.py::test_a_server_that_accepts_an_acl_and_ignores_it_is_noticed",),
    ),
    Mutant(
        "without-acls-a-night-does-not-probe",
        "sync/doubt_checks.py",
        "            if self._copy_private and not self._has_acls:\n",
        "            if False:\n",
        ("integration/test_exposed.py::test_without_acls_a_bucket_that_becomes_public_later_ends_every_run",),
    ),
    Mutant(
        "no-probe-before-private-objects",
        "sync/copy_step.py",
        "        refused = _try_probes(run, planned, refetch=config.refetch)\n",
        "        refused = None\n",
        ("integration/test_exposed.py::test_a_run_ends_before_it_writes_something_private_into_a_public_bucket",),
    ),
    Mutant(
        "a-policy-keeps-a-run-from-setting-acls",
        "sync/copy_step.py",
        "        no_acls = None if isinstance(refused, ExposedError) else refused\n",
        "        no_acls = refused\n",
        ("integration/test_exposed.py::test_a_policy_for_a_style_does_not_keep_a_night",),
    ),
    Mutant(
        "a-run-that-was-cut-off-goes-on",
        "machines/execution.py",
        "        if (confirmed := max(lease.confirmed, answer.confirmed)) > passed_on:\n",
        "        if confirmed := time.monotonic():\n",
        ("machines/test_cut_off.py",),
    ),
    Mutant(
        "ctrl-c-is-lost",
        "process.py",
        "    thread.start()\n    thread.join()\n",
        "    thread.run()\n",
        ("test_process.py",),
    ),
    Mutant(
        "a-raw-video-that-rots-is-copied",
        "plan/decisions.py",
        "    if (decision := _as_long_as_unfinished(difference, record)) is not None:\n",
        "    if False:\n",
        ("plan/test_decisions.py",),
    ),
    Mutant(
        "what-becomes-private-beside-a-run-stays-public",
        "sync/privacy_watch.py",
        "                if exposed:\n",
        "                if False:\n",
        ("integration/test_doubt_checks.py::test_a_range_that_was_planned_before_a_suspension",),
    ),
    Mutant(
        "what-failed-is-not-listed",
        "records/doubts.py",
        "        if line.outcome is Outcome.FAILED:\n            yield DoubtLine(line.row_id, line.part, Doubt.FAILED",
        "        if False:\n            yield DoubtLine(line.row_id, line.part, Doubt.FAILED",
        ("integration/test_lasting_doubts.py::test_what_has_failed_stays_on_the_list",),
    ),
    Mutant(
        "rows-that-row-level-security-hides-count-as-absent",
        "mastodon/connection.py",
        '            "row_security": "off",\n',
        "",
        ("mastodon/test_rows.py::test_rows_that_a_policy_hides_since_the_tables_were_found_are_an_error",),
    ),
    Mutant(
        "row-level-security-is-not-looked-for",
        "mastodon/schema.py",
        "for column in found if column.filtered)",
        "for column in found if False)",
        ("mastodon/test_schema.py::test_row_level_security_is_named_for_every_table_that_is_used",),
    ),
    Mutant(
        "without-what-says-it-nothing-is-private",
        "mastodon/schema.py",
        "            for what in self._absent_of(facts, owner):\n",
        "            for what in ():\n",
        (
            "mastodon/test_schema.py::test_what_says_that_objects_are_private_must_be_there",
            "mastodon/test_schema.py::test_views_must_show_what_says_that_objects_are_private",
        ),
    ),
    # --- what is deleted ---------------------------------------------------------------------------------------------
    Mutant(
        "another-instances-bucket-is-pruned",
        "prune/guards.py",
        "        if self.old > max_share * self.expected:\n",
        "        if False:\n",
        ("integration/test_pruning.py::test_another_instances_objects_in_the_bucket_are_not_deleted",),
    ),
    Mutant(
        "young-objects-are-pruned",
        "prune/guards.py",
        "    if line.modified is None or line.modified > stats.read_at - MIN_AGE:\n",
        "    if line.modified is None:\n",
        ("integration/test_pruning.py::test_only_old_extra_objects_of_the_range_are_deleted",),
    ),
    Mutant(
        "a-restored-backup-is-pruned",
        "prune/guards.py",
        "    if stats.restored_from is not None and",
        "    if stats.restored_from is None and False and",
        ("integration/test_pruning.py::test_of_a_restored_backup_nothing_is_deleted_that_came_after_it",),
    ),
    Mutant(
        "rows-are-not-read-again-before-a-deletion",
        "prune/run.py",
        "deletion.delete([key for key in keys if key in still and still[key] is None])",
        "deletion.delete(keys)",
        ("integration/test_pruning.py::test_an_object_that_a_row_expects_since_the_range_was_listed_stays",),
    ),
    Mutant(
        "a-database-that-was-replaced-is-believed",
        "expected/orphans.py",
        "        if not found.issuperset(witnesses):\n",
        "        if False:\n",
        ("expected/test_orphans.py",),
    ),
    Mutant(
        "a-style-that-is-not-known-is-an-orphan",
        "expected/orphans.py",
        "UNKNOWN_STYLE if _is_beside(key, files) else None for key in orphans",
        "None for key in orphans",
        ("expected/test_orphans.py",),
    ),
    # --- runs --------------------------------------------------------------------------------------------------------
    Mutant(
        "two-processes-execute-one-run",
        "runs/run_lock.py",
        "    if _is_locked(path):\n        raise",
        "    if False:\n        raise",
        ("runs/test_run_lock.py::test_nobody_executes_a_run_that_another_process_executes",),
    ),
    Mutant(
        "a-watermark-in-the-future-is-believed",
        "runs/watermarks.py",
        "    return min(clocks) + OVERLAP\n",
        "    return min(clocks) + 1_000_000 * OVERLAP\n",
        ("integration/test_watermark.py::test_a_watermark_that_lies_in_the_future_is_not_believed",),
    ),
    Mutant(
        "a-restored-database-is-not-noticed",
        "sync/incremental.py",
        "and not is_there(",
        "and False and not is_there(",
        ("integration/test_watermark.py::test_every_row_of_a_restored_database_is_taken",),
    ),
    Mutant(
        "a-private-address-is-fetched-from",
        "refetch/public_addresses.py",
        "    return not any(address in network for network in _NOT_PUBLIC_4)\n",
        "    return True\n",
        ("refetch/test_fetch.py::test_what_is_a_public_address",),
    ),
)
