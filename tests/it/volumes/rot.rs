//! A tree whose files differ from the stored ones is not served.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::hyper::{archive, ask, begin, contents, fetch, fill, finish, local, sample, show, untar};
use crate::harness::image::flip;
use crate::harness::rsync::assert_same_trees;
use crate::harness::{Scratch, Server, image, stored, wait_for};

/// Words of the message, and the change that causes it.
type Change = (&'static str, fn(&Path));

/// The path of a server's only content, and the path of its digests.
fn stored_at(server: &Server) -> (PathBuf, PathBuf) {
    let content = contents(server).pop().expect("a content");
    (server.data().join("trees").join(&content), server.data().join("tree-digests").join(&content))
}

/// Fails if the volume is served, or is not reported as damaged.
#[track_caller]
fn assert_told(server: &Server, why: &str) {
    let again = server.curl("/volumes/vol/download").arg("--location").run();
    assert_eq!(again.status, 409, "{again:?}");
    assert!(again.text().contains(why), "{again:?}");
    assert!(server.logged().lines().any(|line| line.contains("a tree is damaged on disk") && line.contains(why)));
    assert_eq!(server.metric("longshore_trees_found_corrupt_total"), Some(1.0));
}

#[test]
fn a_download_of_a_tree_with_another_byte_is_cut_and_the_tree_is_not_served_any_more() {
    for encoding in ["identity", "gzip", "zstd"] {
        let server = Server::start();
        let home = Scratch::new();
        let dir = sample(&home, "a");
        fs::write(dir.join("sub/z"), image::bytes(1, 3 << 20)).expect("a file");
        fill(&server, "vol", &archive(&home, "a"));
        let (tree, _) = stored_at(&server);
        flip(&tree.join("sub/z"), 2_999_999);
        let back = home.join("back");
        let curl = server.curl("/volumes/vol/download").arg("--location").output(&back);
        let (output, response) = curl.header(&format!("Accept-Encoding: {encoding}")).try_run();
        assert!(!output.status.success(), "{encoding}: it is not whole: {response:?}");
        if encoding == "identity" {
            let sent = fs::read(&back).expect("what was sent");
            assert!(!sent.ends_with(&[0; 1024]), "an end marker");
        }
        assert_told(&server, "its bytes are not those that were stored");
        assert_told(&server, "sub/z");
    }
}

#[test]
fn files_that_are_missing_or_were_added_are_damage_too() {
    let changes: [Change; 2] = [
        ("missing", |tree| fs::remove_file(tree.join("sub/empty")).expect("it is removed")),
        ("was not stored", |tree| fs::write(tree.join("added"), "").expect("a file")),
    ];
    for (why, change) in changes {
        let server = Server::start();
        fill(&server, "vol", &archive(server.scratch(), "a"));
        change(&stored_at(&server).0);
        let curl = server.curl("/volumes/vol/download").arg("--location").output(&server.scratch().join("back"));
        assert!(!curl.try_run().0.status.success());
        assert_told(&server, why);
    }
}

#[test]
fn digests_that_are_damaged_are_damage_and_such_a_tree_can_be_removed() {
    let server = Server::start();
    fill(&server, "vol", &archive(server.scratch(), "a"));
    let (_, digests) = stored_at(&server);
    flip(&digests, fs::metadata(&digests).expect("a file").len() - 1);
    assert_told(&server, "its digests are damaged");
    assert_eq!(server.curl("/volumes/vol").method("DELETE").run().status, 204);
    assert_eq!(show(&server, "vol").status, 404);
    assert!(stored::entries(&server, "tree-digests").is_empty());
}

#[test]
fn a_damaged_tree_is_loaded_anew_with_reload_only() {
    let server = Server::start();
    let home = Scratch::new();
    let tar = archive(&home, "a");
    fill(&server, "vol", &tar);
    let (_, digests) = stored_at(&server);
    flip(&digests, fs::metadata(&digests).expect("a file").len() - 1);
    assert_told(&server, "its digests are damaged");
    let refused = ask(&server, &local(&["vol"]));
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("Reload"), "{refused:?}");
    let mut body = local(&["vol"]);
    body["Reload"] = true.into();
    let session = begin(&server, &body);
    assert_eq!(session.upload("vol", &tar).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
    let (back, dir) = (home.join("back.tar"), home.join("back"));
    fetch(&server, "vol", &back);
    untar(&back, &dir);
    assert_same_trees(&sample(&home, "a"), &dir);
    assert_eq!(contents(&server).len(), 1, "the damaged content is gone");
}

#[test]
fn a_tree_of_a_version_without_digests_is_served_as_before() {
    let mut server = Server::start();
    let home = Scratch::new();
    fill(&server, "vol", &archive(&home, "a"));
    server.terminate();
    fs::remove_dir_all(server.data().join("tree-digests")).expect("it is removed");
    fs::remove_dir_all(server.data().join("lost/tree-digests")).expect("it is removed");
    server.restart();
    let (back, dir) = (home.join("back.tar"), home.join("back"));
    fetch(&server, "vol", &back);
    untar(&back, &dir);
    assert_same_trees(&sample(&home, "a"), &dir);
}

#[test]
fn digests_go_with_their_content_and_no_others_are_kept() {
    let mut server = Server::start();
    let home = Scratch::new();
    fill(&server, "vol", &archive(&home, "a"));
    let first = contents(&server);
    let held = |server: &Server| stored::entries(server, "tree-digests").into_iter().collect::<Vec<_>>();
    assert_eq!(held(&server), first);

    // A broken archive leaves no digests.
    let session = begin(&server, &local(&["other"]));
    let cut = home.join("cut.tar");
    fs::write(&cut, &fs::read(archive(&home, "a")).expect("an archive")[..20_000]).expect("a file");
    assert_eq!(session.upload("other", &cut).run().status, 400);
    assert_eq!(finish(&server, &session.token).status, 400);
    wait_for("the attempt to be undone", || (contents(&server) == first).then_some(()));
    assert_eq!(held(&server), first);

    // Digests without a content are removed by the next start; files that are not the server's stay.
    server.terminate();
    let orphan = server.data().join("tree-digests").join(uuid::Uuid::new_v4().to_string());
    fs::write(&orphan, "x").expect("a file");
    fs::write(server.data().join("tree-digests/notes"), "x").expect("a file");
    server.restart();
    let mut kept = first.clone();
    kept.push("notes".to_owned());
    assert_eq!(held(&server), kept);
    let back = home.join("back.tar");
    fetch(&server, "vol", &back);
}
