//! The answers, by the schemas of OpenStack's own tests.

use std::path::Path;

use crate::harness::clients::{client, text_of};
use crate::harness::{Server, Setup, image};

#[test]
fn each_answer_is_one_by_the_schemas_of_openstacks_own_tests() {
    let server = Setup::default().config("block.types = [\"standard\"]").start();
    let credentials = server.credentials();
    let Some(mut python) = client(&server, &credentials, "tempest", "python") else { return };
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 70_000, 142);
    let drive = Server::upload(&server, &disk);
    let (user, password) = credentials.split_once(':').expect("user:password");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/check_block_schemas.py");
    let url = format!("{}/v3", server.endpoint());
    let run = python.arg(script).args([&url, user, password, &drive]).output().expect("Python runs");
    println!("{}", text_of(run));
}
