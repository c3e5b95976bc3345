//! Random sequences of calls, compared with a model of each answer and of the resulting state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::harness::hyper::{self, Session, contents, finish};
use crate::harness::{Server, wait_for};
use crate::tree::tarball::Tarball;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The number of calls in one sequence.
const STEPS: usize = 150;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    Dropped,
}

/// The expected state of a session.
#[derive(Debug)]
struct Filling {
    session: Session,
    state: State,
    /// The number of the archive that each volume has received.
    received: BTreeMap<&'static str, Option<u32>>,
    /// Volumes that the session itself makes.
    made: BTreeSet<&'static str>,
}

/// The expected state: the volumes with the archive that each holds, and all sessions so far.
#[derive(Default)]
struct Model {
    volumes: BTreeMap<&'static str, Option<u32>>,
    sessions: Vec<Filling>,
}

impl Model {
    fn holder(&self, name: &str) -> Option<usize> {
        let holds = |filling: &Filling| filling.state == State::Open && filling.received.contains_key(name);
        self.sessions.iter().position(holds)
    }

    fn drop_session(&mut self, index: usize) {
        let filling = &mut self.sessions[index];
        filling.state = State::Dropped;
        for name in &filling.made {
            self.volumes.remove(name);
        }
    }

    /// The number of contents on the disk.
    fn contents(&self) -> usize {
        let open = self.sessions.iter().filter(|filling| filling.state == State::Open);
        let received = open.flat_map(|filling| filling.received.values());
        self.volumes.values().chain(received).flatten().count()
    }
}

struct Walk {
    server: Server,
    random: StdRng,
    model: Model,
    /// The number of archives made so far, which is also the number of the last.
    archives: u32,
}

impl Walk {
    fn step(&mut self) -> String {
        match self.random.random_range(0..20) {
            0..5 => self.begin(),
            5..12 => self.upload(),
            12..15 => self.finish(),
            15 => self.create(),
            16..18 => self.remove(),
            18 => self.restart(),
            _ => self.read(),
        }
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.random.random_range(0..NAMES.len())]
    }

    /// Picks a session, more often an open one.
    fn some_session(&mut self) -> Option<usize> {
        let open: Vec<usize> =
            (0..self.model.sessions.len()).filter(|at| self.model.sessions[*at].state == State::Open).collect();
        let all = self.model.sessions.len();
        match (open.len(), all) {
            (_, 0) => None,
            (1.., _) if self.random.random_bool(0.8) => Some(open[self.random.random_range(0..open.len())]),
            _ => Some(self.random.random_range(0..all)),
        }
    }

    fn begin(&mut self) -> String {
        let names: Vec<&'static str> = NAMES.into_iter().filter(|_| self.random.random()).collect();
        let reload: bool = self.random.random();
        let sources: Vec<_> = names.iter().map(|name| json!({"Name": name, "Source": "/local/dir"})).collect();
        let response = hyper::ask(&self.server, &json!({"Reload": reload, "Volume": sources}));
        let is_held = |name: &&str| self.model.holder(name).is_some();
        let is_full = |name: &&str| self.model.volumes.get(*name).is_some_and(Option::is_some);
        let expected = match &names[..] {
            [] => 400,
            names if names.iter().any(|name| is_held(name) || (!reload && is_full(name))) => 409,
            _ => 200,
        };
        let told = format!("begin {names:?}, reload {reload}");
        assert_eq!(response.status, expected, "{told}: {response:?}");
        if expected == 200 {
            let made = names.iter().copied().filter(|name| !self.model.volumes.contains_key(name)).collect();
            self.model
                .volumes
                .extend(names.iter().filter(|name| !is_full(name)).map(|name| (*name, None)).collect::<Vec<_>>());
            let received = names.into_iter().map(|name| (name, None)).collect();
            let session = Session::of(&response);
            self.model.sessions.push(Filling { session, state: State::Open, received, made });
        }
        told
    }

    fn upload(&mut self) -> String {
        let Some(index) = self.some_session() else { return "nothing".to_owned() };
        let filling = &self.model.sessions[index];
        let names: Vec<&'static str> = filling.received.keys().copied().collect();
        let name = names[self.random.random_range(0..names.len())];
        self.archives += 1;
        let number = self.archives;
        let mut archive = Tarball::new().dir(".").file("number", number.to_string()).end();
        let fault = self.random.random_range(0..4);
        if fault == 0 {
            // Cut before its last member's data.
            archive.truncate(1024);
        }
        let path = self.server.scratch().join("next.tar");
        fs::write(&path, archive).expect("an archive");
        let mut url = self.server.endpoint().to_owned() + &filling.session.path(name);
        if fault == 1 {
            url.replace_range(url.len() - 64.., &"0".repeat(64));
        }
        let response = hyper::upload_to(&url, &path).run();
        let expected = match (fault, filling.state, filling.received[name]) {
            (1, ..) => 403,
            (_, State::Open, Some(_)) | (_, State::Finished, _) => 409,
            (_, State::Dropped, _) => 410,
            (0, State::Open, None) => 400,
            (_, State::Open, None) => 200,
        };
        let told = format!("upload {number} for {name} to session {index}, fault {fault}");
        assert_eq!(response.status, expected, "{told}: {response:?}");
        if expected == 200 {
            self.model.sessions[index].received.insert(name, Some(number));
        }
        told
    }

    fn finish(&mut self) -> String {
        let Some(index) = self.some_session() else { return "nothing".to_owned() };
        let filling = &mut self.model.sessions[index];
        let response = finish(&self.server, &filling.session.token);
        let is_whole = filling.received.values().all(Option::is_some);
        let told = format!("finish session {index}");
        match filling.state {
            State::Open if is_whole => {
                assert_eq!(response.status, 200, "{told}: {response:?}");
                filling.state = State::Finished;
                self.model.volumes.extend(&filling.received);
            }
            State::Open => {
                assert_eq!(response.status, 400, "{told}: {response:?}");
                self.model.drop_session(index);
            }
            State::Finished => assert_eq!(response.status, 200, "{told}: {response:?}"),
            State::Dropped => assert_eq!(response.status, 400, "{told}: {response:?}"),
        }
        told
    }

    fn create(&mut self) -> String {
        let name = self.name();
        let response = self.server.curl("/volumes/create").json("POST", &json!({"Name": name})).run();
        let expected = if self.model.volumes.contains_key(name) { 409 } else { 201 };
        assert_eq!(response.status, expected, "create {name}: {response:?}");
        self.model.volumes.entry(name).or_default();
        format!("create {name}")
    }

    fn remove(&mut self) -> String {
        let (name, force) = (self.name(), self.random.random());
        let query = if force { "?force=1" } else { "" };
        let response = self.server.curl(&format!("/volumes/{name}{query}")).method("DELETE").run();
        let holder = self.model.holder(name);
        let expected = match (self.model.volumes.contains_key(name), holder) {
            (false, _) => 404,
            (true, Some(_)) if !force => 409,
            _ => 204,
        };
        let told = format!("remove {name}{query}");
        assert_eq!(response.status, expected, "{told}: {response:?}");
        if expected == 204 {
            if let Some(index) = holder {
                self.model.drop_session(index);
            }
            self.model.volumes.remove(name);
        }
        told
    }

    fn restart(&mut self) -> String {
        self.server.kill9();
        self.server.restart();
        "restart".to_owned()
    }

    fn read(&mut self) -> String {
        let name = self.name();
        let path = self.server.scratch().join("back.tar");
        let response = self.server.curl(&format!("/volumes/{name}/download")).arg("--location").output(&path).run();
        let told = format!("read {name}");
        match self.model.volumes.get(name) {
            None => assert_eq!(response.status, 404, "{told}"),
            Some(None) => assert_eq!(response.status, 409, "{told}"),
            Some(Some(number)) => {
                assert_eq!(response.status, 200, "{told}");
                let archive = fs::read(&path).expect("an archive");
                let number = number.to_string();
                let data =
                    archive.chunks(512).find(|block| block.starts_with(number.as_bytes()) && block[number.len()] == 0);
                assert!(data.is_some(), "{told}: not the archive {number}");
            }
        }
        told
    }

    fn check(&self, told: &[String]) {
        let list = self.server.curl("/volumes").run().json();
        let mut names: Vec<&str> = list["Volumes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|volume| volume["Name"].as_str().expect("a name"))
            .collect();
        names.sort_unstable();
        assert!(names.iter().eq(self.model.volumes.keys()), "{names:?} after {told:#?}");
        // Replaced contents are unlinked after the answer.
        wait_for("the contents to be as many as they should be", || {
            (contents(&self.server).len() == self.model.contents()).then_some(())
        });
    }
}

#[test]
fn calls_in_any_order_do_what_the_model_says() {
    for seed in 1..=3 {
        println!("seed {seed}");
        let random = StdRng::seed_from_u64(seed);
        let mut walk = Walk { server: Server::start(), random, model: Model::default(), archives: 0 };
        let mut told = Vec::new();
        for _ in 0..STEPS {
            told.push(walk.step());
            println!("{}", told[told.len() - 1]);
            walk.check(&told);
        }
        let finished = walk.model.sessions.iter().filter(|filling| filling.state == State::Finished).count();
        assert!(finished > 3, "the walk has finished {finished} sessions only");
    }
}
