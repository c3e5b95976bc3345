//! Control requests over a few connections that are kept alive, with many volumes in the database: one volume, a page
//! of a hundred, and new ones, each durable before it is answered. Beside nginx, which serves the same answers from
//! files: what the sockets and the clients on the same cores leave to anybody.

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::client::Client;
use crate::http::{Connection, Target};
use crate::process;
use crate::report::{Bound, Runs, Subject, Waits, spread};
use crate::servers::{Cost, Peer as _};

/// Volumes in the database before anything is measured.
const VOLUMES: u32 = 10_000;

/// Connections, each of a thread of the client.
const CONNECTIONS: usize = 8;

/// Requests of one run.
const GETS: u32 = 20_000;
const LISTS: u32 = 2_000;
const CREATES: u32 = 2_000;

/// A run of requests: what it cost, and how long each waited.
struct Ran {
    cost: Cost,
    waits: Vec<Duration>,
}

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let login = Login::of(&bench.longshore.root().clone())?;
    let create = json!({"volume": {"size": 1, "name": "bench"}}).to_string();
    run(&login.target, bench.longshore.pid(), VOLUMES, &Ask::post(&login.path("volumes"), &create))?;
    let first = first_of(&login)?;
    let get = login.path(&format!("volumes/{first}"));
    let list = login.path("volumes/detail?limit=100");
    for (work, requests, ask, target) in [
        ("one volume of 10,000", GETS, Ask::get(&get), 15_000.0),
        ("a page of 100 volumes", LISTS, Ask::get(&list), 3_000.0),
        ("new volumes, durable", CREATES, Ask::post(&login.path("volumes"), &create), 1_000.0),
    ] {
        beside_nginx(bench, &login, (work, requests), &ask, target)?;
    }
    login.remove_all(bench.longshore.pid())
}

/// One kind of request, in turns with nginx, which serves the answer to it from a file.
fn beside_nginx(bench: &mut Bench, login: &Login, (work, requests): (&str, u32), ask: &Ask, target: f64) -> Result<()> {
    let answer =
        Connection::open(&login.target)?.send(ask.method, &ask.path, ask.body.as_deref().unwrap_or_default())?;
    let file = bench.dir.join("answer.json");
    fs::write(&file, answer)?;
    let (key, _) = bench.nginx.upload(Client::Fast, &file)?;
    let place = bench.nginx.place(&key);
    let (mut ours, mut theirs, mut waits) = (Runs::default(), Runs::default(), Vec::new());
    for turn in 0..=bench.args.runs {
        for at in super::turns(2, turn) {
            bench.settle()?;
            let ran = if at == 0 {
                run(&login.target, bench.longshore.pid(), requests, ask)?
            } else {
                run(&place, bench.nginx.pid(), requests, &Ask::get(&place.path))?
            };
            if turn > 0 {
                if at == 0 { &mut ours } else { &mut theirs }.push(ran.cost);
                waits.extend(ran.waits.into_iter().filter(|_| at == 0));
            }
        }
    }
    bench.nginx.remove(&key)?;
    let work = format!("{work}, {CONNECTIONS} connections");
    let subject = |measure| Subject { work: &work, client: Client::Fast.name(), measure };
    let [our_rates, their_rates] = [&ours, &theirs].map(|runs| runs.rates(f64::from(requests)));
    let beside = format!("nginx, from a file {}", spread(&their_rates, 0));
    let rate = crate::report::median(&our_rates);
    bench.report.figure(subject("requests/s"), &spread(&our_rates, 0), &beside, (rate, "/s"), Bound::AtLeast(target));
    bench.report.waits(&work, Client::Fast.name(), &Waits::of(waits)?, &[], Bound::AtMost(20.0));
    Ok(())
}

/// A request that is sent again and again.
struct Ask {
    method: &'static str,
    path: String,
    body: Option<String>,
}

impl Ask {
    fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), body: None }
    }

    fn post(path: &str, body: &str) -> Self {
        Self { method: "POST", path: path.to_owned(), body: Some(body.to_owned()) }
    }

    fn send(&self, connection: &mut Connection) -> Result<()> {
        if let Some(body) = &self.body {
            return connection.send(self.method, &self.path, body).map(drop);
        }
        connection.ask(self.method, &self.path, "")?;
        let answer = connection.answer()?;
        ensure!(answer.status == 200, "the server answered {} to {}", answer.status, self.path);
        connection.text(answer).map(drop)
    }
}

/// Sends so many requests over all connections.
fn run(target: &Target, pid: u32, requests: u32, ask: &Ask) -> Result<Ran> {
    let next = AtomicU32::new(0);
    let start = Barrier::new(CONNECTIONS + 1);
    let stream = || {
        let connection = Connection::open(target);
        start.wait();
        let mut connection = connection?;
        let mut waits = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < requests {
            let from = Instant::now();
            ask.send(&mut connection)?;
            waits.push(from.elapsed());
        }
        anyhow::Ok(waits)
    };
    thread::scope(|scope| {
        let streams: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(stream)).collect();
        let cpu = process::cpu_of(pid)?;
        start.wait();
        let from = Instant::now();
        let mut waits = Vec::with_capacity(requests as usize);
        for stream in streams {
            waits.extend(stream.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        let wall = from.elapsed();
        Ok(Ran { cost: Cost { wall, cpu: process::cpu_of(pid)?.saturating_sub(cpu) }, waits })
    })
}

/// A token, and the project that it is good for.
struct Login {
    target: Target,
    project: String,
}

impl Login {
    /// Logs in as the first user.
    fn of(root: &Target) -> Result<Self> {
        let (user, password) = root.credentials.as_deref().and_then(|text| text.split_once(':')).context("a login")?;
        let body = json!({
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}},
                },
                "scope": {"project": {"name": user, "domain": {"id": "default"}}},
            }
        });
        let target = Target { credentials: None, ..root.clone() };
        let mut connection = Connection::open(&target)?;
        let (token, answer) = connection.log_in("/v3/auth/tokens", &body.to_string())?;
        let answer: Value = serde_json::from_str(&answer)?;
        let project = answer["token"]["project"]["id"].as_str().context("a token is for a project")?.to_owned();
        Ok(Self { target: Target { headers: vec![format!("X-Auth-Token: {token}")], ..target }, project })
    }

    fn path(&self, rest: &str) -> String {
        format!("/v3/{}/{rest}", self.project)
    }

    /// Removes all volumes, some at a time.
    fn remove_all(&self, pid: u32) -> Result<()> {
        let mut connection = Connection::open(&self.target)?;
        loop {
            let ids = listed(&mut connection, &self.path("volumes?limit=1000"))?;
            if ids.is_empty() {
                return Ok(());
            }
            for id in ids {
                connection.delete(&self.path(&format!("volumes/{id}")))?;
            }
            ensure!(process::memory(pid).is_ok(), "the server has ended");
        }
    }
}

fn first_of(login: &Login) -> Result<String> {
    let ids = listed(&mut Connection::open(&login.target)?, &login.path("volumes?limit=1"))?;
    ids.into_iter().next().context("there is a volume")
}

fn listed(connection: &mut Connection, path: &str) -> Result<Vec<String>> {
    connection.ask("GET", path, "")?;
    let answer = connection.answer()?;
    let list: Value = serde_json::from_str(&connection.text(answer)?)?;
    let volumes = list["volumes"].as_array().context("a list of volumes")?;
    volumes.iter().map(|volume| Ok(volume["id"].as_str().context("an id")?.to_owned())).collect()
}
