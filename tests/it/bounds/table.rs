//! Checks that the table of the README lists exactly the tested limits.

use std::fs;
use std::path::Path;

/// The first column of each row, and the tests of that limit.
const ROWS: &[(&str, &[&str])] = &[
    ("bytes of drives and snapshots", &["drives_and_snapshots_fill_the_quota_of_bytes"]),
    ("free space that uploads have claimed", &["the_claims_of_one_tenant_leave_room_for_the_uploads_of_another"]),
    ("bytes and number of backups", &["backups_fill_their_quotas_of_number_and_bytes"]),
    ("rows of volumes", &["rows_of_volumes_are_as_many_and_as_long_as_they_may_be"]),
    ("records of ended sessions", &["the_newest_records_of_ended_sessions_are_kept_and_they_are_short_together"]),
    ("open transfers", &["a_tenant_has_so_many_open_transfers_and_each_is_one_of_its_drives"]),
    (
        "memory and maps of open transfers",
        &[
            "a_transfer_is_in_so_many_extents_and_what_is_there_stays",
            "parts_that_stall_share_the_memory_and_others_move_on",
        ],
    ),
    ("compressed parts at once", &["as_many_compressed_parts_as_may_be_keep_no_others_from_coming_plainly"]),
    ("records of ended transfers", &["the_newest_records_of_ended_transfers_are_kept"]),
    ("tokens", &["a_user_has_so_many_tokens_and_the_oldest_goes"]),
    ("the database's log", &["the_log_of_the_database_is_written_back_however_much_is_changed"]),
    ("files of a volume", &["a_volume_has_files_in_proportion_to_its_size_and_none_beyond"]),
    ("what open sessions have received", &["open_sessions_hold_each_of_their_volumes_once_more"]),
    ("inodes", &["the_last_inodes_are_left_by_archives_and_drives_and_all_can_be_removed"]),
    ("memory of transfers", &["transfers_that_stall_share_the_memory_and_others_move_on"]),
    ("memory of requests", &["requests_that_stall_take_a_bounded_part_of_memory"]),
    (
        "memory of uploads over HTTP/2 that nobody takes yet",
        &["what_is_sent_ahead_over_http2_takes_a_bounded_part_of_memory"],
    ),
    (
        "memory of answers that are not read",
        &["pages_that_nobody_reads_take_a_bounded_part_of_memory_and_keep_no_other_tenant_waiting"],
    ),
    ("connections", &["a_tenant_has_the_connections_of_its_address_and_others_have_the_rest"]),
    (
        "requests under way",
        &[
            "one_tenant_has_its_share_of_what_is_under_way_and_is_told_so",
            "requests_of_who_is_behind_a_proxy_have_the_share_of_one_address",
        ],
    ),
    ("transfers that are watched", &["a_tenant_watches_so_many_transfers_and_its_uploads_go_on"]),
    ("open files", &["uploads_of_one_tenant_leave_descriptors_to_others"]),
    ("archives at once", &["archives_of_one_tenant_never_keep_another_from_its_turn"]),
    ("fetches at once", &["sources_of_one_tenant_that_stall_keep_no_other_from_being_fetched"]),
    ("copies and resizes, backups and restores at once", &["what_copies_hold_of_removed_drives_goes_with_the_copies"]),
    ("digests that downloads want", &["a_digest_of_one_tenant_that_takes_long_keeps_no_other_from_theirs"]),
    (
        "pieces that are compared or digested at once",
        &["pieces_that_one_tenant_has_digested_keep_no_other_from_theirs"],
    ),
    ("logins at once", &["a_tenant_that_guesses_passwords_keeps_nobody_from_logging_in"]),
    ("what copies hold of removed and replaced drives", &["what_copies_hold_of_removed_drives_goes_with_the_copies"]),
    (
        "drives and volumes that are removed or replaced while they are read",
        &[
            "volumes_that_are_removed_while_they_are_read_are_held_by_a_share_of_the_turns",
            "what_was_removed_or_replaced_is_read_for_half_a_minute_at_most",
        ],
    ),
    ("what the database does not know (`lost`)", &["what_is_lost_is_removed_by_command_or_in_time"]),
];

/// Returns the first column of the table under this heading.
fn rows(heading: &str) -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once(heading).expect("the README has this section");
    let table = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = table.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).expect("a first column").trim().to_owned()).collect()
}

/// Returns the source text of all tests in this folder.
fn sources(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).expect("the tests are there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text += &fs::read_to_string(&path).expect("a source is text");
        }
    }
    text
}

#[test]
fn every_row_of_the_table_has_a_test_that_fills_it() {
    let known: Vec<&str> = ROWS.iter().map(|(row, _)| *row).collect();
    assert_eq!(rows("## What a tenant can make it hold"), known);
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"));
    for (row, tests) in ROWS {
        assert!(!tests.is_empty(), "{row} is filled by no test");
        for test in *tests {
            assert!(sources.contains(&format!("#[test]\nfn {test}() {{")), "{row}: there is no test {test}");
        }
    }
}
