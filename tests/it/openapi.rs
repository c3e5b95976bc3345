//! The description of the native API, by a validator that others wrote, and beside what the server answers.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::clients::client;
use crate::harness::{Curl, Response, Server, image};

const TRANSFERS: &str = "/api/v1/transfers";

/// Answers of a server, each with its request.
struct Answers(Vec<Value>);

impl Answers {
    fn ask(&mut self, method: &str, path: &str, curl: Curl) -> Response {
        let curl = if method == "HEAD" { curl.arg("--head") } else { curl };
        let answer = curl.run();
        self.0.push(json!({
            "method": method,
            "path": path,
            "status": answer.status,
            "fields": answer.fields,
            "body": answer.text(),
        }));
        answer
    }
}

/// Asks for what there is, well and badly.
fn asked(server: &Server) -> Vec<Value> {
    let mut answers = Answers(Vec::new());
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 5_000, 71);
    let drive = server.upload(&disk);
    let terms = json!({"name": "a", "size": 5_000, "reference": "batch", "digest": {"blake3": null}, "meta": {"k": 1}});
    let ask_for = |terms: &Value| server.curl(TRANSFERS).json("POST", terms);
    let begun = answers.ask("POST", TRANSFERS, ask_for(&terms)).json();
    answers.ask("POST", TRANSFERS, ask_for(&json!({"name": "b"})));
    answers.ask("POST", TRANSFERS, ask_for(&json!({"name": 1})));
    answers.ask("POST", TRANSFERS, ask_for(&json!({"name": "b", "size": 1_u64 << 60})));
    let path = format!("{TRANSFERS}/{}", begun["id"].as_str().expect("an id"));
    let append = |offset: u64| {
        let fields = ["Content-Type: application/partial-upload", "Upload-Complete: ?0"];
        let curl = fields.iter().fold(server.curl(&path), |curl, field| curl.header(field));
        curl.method("PATCH").header(&format!("Upload-Offset: {offset}")).arg("--upload-file").arg(&disk)
    };
    answers.ask("PATCH", &path, append(7));
    answers.ask("PATCH", &path, append(0));
    answers.ask("PATCH", &path, server.curl(&path).method("PATCH"));
    for method in ["GET", "HEAD"] {
        let beneath = ["", "/events", "/receipt"].map(|end| format!("{path}{end}"));
        for path in beneath.iter().filter(|path| method == "HEAD" || !path.ends_with("/events")) {
            answers.ask(method, path, server.curl(path));
        }
        answers.ask(method, TRANSFERS, server.curl(&format!("{TRANSFERS}?limit=1&state=open")));
        answers.ask(method, TRANSFERS, server.anonymous_curl(TRANSFERS));
        answers.ask(method, TRANSFERS, server.curl(&format!("{TRANSFERS}?no_such=1")));
        answers.ask(method, "/api/v1/sessions", server.curl("/api/v1/sessions"));
        answers.ask(method, "/.well-known/jwks.json", server.anonymous_curl("/.well-known/jwks.json"));
        answers.ask(method, "/api/v1/openapi.json", server.anonymous_curl("/api/v1/openapi.json"));
        let receipt = format!("/api/v1/drives/{drive}/receipt");
        answers.ask(method, &receipt, server.curl(&receipt));
    }
    let finish = format!("{path}/finish");
    answers.ask("POST", &finish, server.curl(&finish).json("POST", &json!({"size": 4_999})));
    answers.ask("POST", &finish, server.curl(&finish).method("POST"));
    for end in ["", "/events", "/receipt"] {
        let path = format!("{path}{end}");
        answers.ask("GET", &path, server.curl(&path));
    }
    answers.ask("DELETE", &path, server.curl(&path).method("DELETE"));
    answers.0
}

#[test]
fn the_description_is_valid_and_is_that_of_what_is_answered() {
    let server = Server::start();
    let document = server.anonymous_curl("/api/v1/openapi.json").run();
    assert_eq!((document.status, document.field("content-type")), (200, "application/json"), "{document:?}");
    let Some(mut python) = client(&server, &server.credentials(), "openapi", "python") else { return };
    let (told, answers) = (server.scratch().join("openapi.json"), server.scratch().join("answers.json"));
    std::fs::write(&told, &document.body).expect("the document is written");
    std::fs::write(&answers, Value::from(asked(&server)).to_string()).expect("the answers are written");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("tests/services/check_openapi.py");
    let output = python.args([&script, &told, &answers, &root.join("fixtures/native")]).output().expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}
