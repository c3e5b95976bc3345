//! A client of block storage, by curl: a token, and the paths of its project.

use serde_json::{Value, json};

use super::{Curl, Response, Server, wait_for};

/// The path that issues tokens.
pub(crate) const TOKENS: &str = "/v3/auth/tokens";

/// Returns the body that requests a token by a password.
pub(crate) fn login_body(credentials: &str) -> Value {
    let (user, password) = credentials.split_once(':').expect("user:password");
    let user = json!({"name": user, "domain": {"id": "default"}, "password": password});
    json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}})
}

/// A user who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) endpoint: String,
    pub(crate) token: String,
    pub(crate) project: String,
}

impl Cloud {
    /// Logs in as the first user.
    #[track_caller]
    pub(crate) fn of(server: &Server) -> Self {
        Self::log_in(server, &server.credentials())
    }

    /// Logs in as this user, to the user's own project.
    #[track_caller]
    pub(crate) fn log_in(server: &Server, credentials: &str) -> Self {
        Self::log_in_by(server, credentials, server.anonymous_curl(TOKENS))
    }

    /// Logs in with this curl for [`TOKENS`].
    #[track_caller]
    pub(crate) fn log_in_by(server: &Server, credentials: &str, curl: Curl) -> Self {
        let response = curl.json("POST", &login_body(credentials)).run();
        assert_eq!(response.status, 201, "{response:?}");
        let project = response.json()["token"]["project"]["id"].as_str().expect("a project").to_owned();
        let token = response.field("x-subject-token").to_owned();
        Self { endpoint: server.endpoint().to_owned(), token, project }
    }

    /// Returns a curl for a path beneath the project, such as `volumes` of `v3`.
    pub(crate) fn curl(&self, version: &str, path: &str) -> Curl {
        let url = format!("{}/{version}/{}/{path}", self.endpoint, self.project);
        Curl::new(&url).header(&format!("X-Auth-Token: {}", self.token))
    }

    /// Requests a path.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.curl("v3", path).run()
    }

    /// Sends a body to a path.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.curl("v3", path).json("POST", body).run()
    }

    /// Deletes a path.
    pub(crate) fn delete(&self, path: &str) -> Response {
        self.curl("v3", path).method("DELETE").run()
    }

    /// Creates a volume and waits until it is available; returns its id.
    #[track_caller]
    pub(crate) fn create(&self, wish: &Value) -> String {
        let response = self.post("volumes", &json!({"volume": wish}));
        assert_eq!(response.status, 202, "{response:?}");
        let id = response.json()["volume"]["id"].as_str().expect("an id").to_owned();
        self.wait("volumes", &id, "available");
        id
    }

    /// Creates a snapshot and waits until it is available; returns its id.
    #[track_caller]
    pub(crate) fn snapshot(&self, volume: &str) -> String {
        let response = self.post("snapshots", &json!({"snapshot": {"volume_id": volume}}));
        assert_eq!(response.status, 202, "{response:?}");
        let id = response.json()["snapshot"]["id"].as_str().expect("an id").to_owned();
        self.wait("snapshots", &id, "available");
        id
    }

    /// Returns one of `volumes`, `snapshots` or `backups`.
    #[track_caller]
    pub(crate) fn show(&self, kind: &str, id: &str) -> Value {
        let response = self.get(&format!("{kind}/{id}"));
        assert_eq!(response.status, 200, "{response:?}");
        response.json()[kind.trim_end_matches('s')].clone()
    }

    /// Waits until one of these has this status.
    #[track_caller]
    pub(crate) fn wait(&self, kind: &str, id: &str, status: &str) {
        wait_for(status, || (self.show(kind, id)["status"] == status).then_some(()));
    }
}
