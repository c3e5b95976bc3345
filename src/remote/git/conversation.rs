//! The conversation with a git server: lists its refs, and requests the commit of one of them without its history.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::BufRead;
use std::ops::ControlFlow;

use gix_hash::ObjectId;
use gix_packetline::PacketLineRef;
use gix_packetline::blocking_io::StreamingPeekableIter;
use gix_packetline::read::Error as ErrorLine;

use super::super::error::{Flaw, RemoteError};
use super::session::{Session, packet};

const AGENT: &str = "agent=longshore\n";
const FLUSH: &str = "0000";
const DELIMITER: &str = "0001";

/// The packets that end a list of lines.
const ENDS: &[PacketLineRef<'static>] = &[PacketLineRef::Flush, PacketLineRef::Delimiter, PacketLineRef::ResponseEnd];

/// Finds the commit or tag that `branch` names, and lets `receive` read its pack. The session holds the server's first
/// answer.
pub(super) fn fetch<T>(
    session: &mut Session<'_>,
    branch: Option<&str>,
    most: u64,
    receive: impl FnOnce(&mut dyn BufRead) -> Result<T, RemoteError>,
) -> Result<(ObjectId, T), RemoteError> {
    let mut tips = Tips::of(branch);
    let abilities = greet(session, &mut tips)?;
    if abilities.is_second {
        list(session, &abilities, &mut tips)?;
    }
    let tip = tips.choose()?;
    // The bound leaves room for the lines around the pack, which are not kept.
    session.ask(abilities.want(tip).into_bytes(), most.saturating_add(most / 64).saturating_add(1 << 20))?;
    let mut lines = Lines::of(session);
    if abilities.is_second {
        lines.skip_to_pack()?;
    } else {
        lines.skip_answers(abilities.shallow)?;
    }
    let is_error = Cell::new(false);
    let mut reader = lines.packets.as_read_with_sidebands(|error, _text| {
        is_error.set(is_error.get() || error);
        if error { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let received = receive(&mut reader);
    match received {
        Err(_) if is_error.get() => Err(RemoteError::NoRepository),
        received => Ok((tip, received?)),
    }
}

/// The refs that are looked for, and their ids.
struct Tips {
    /// The names of refs, the preferred one first.
    names: Vec<String>,
    found: Vec<Option<ObjectId>>,
}

impl Tips {
    fn of(branch: Option<&str>) -> Self {
        let names = match branch {
            Some(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
            None => vec!["HEAD".to_owned()],
        };
        Self { found: vec![None; names.len()], names }
    }

    fn note(&mut self, name: &[u8], id: &[u8]) -> Result<(), RemoteError> {
        let id = ObjectId::from_hex(id).map_err(|_| Flaw::Protocol)?;
        if let Some(at) = self.names.iter().position(|wanted| wanted.as_bytes() == name) {
            self.found[at] = Some(id);
        }
        Ok(())
    }

    fn choose(&self) -> Result<ObjectId, RemoteError> {
        let missing = if self.names.len() == 1 { RemoteError::NoHead } else { RemoteError::NoBranch };
        self.found.iter().copied().flatten().next().ok_or(missing)
    }
}

/// The capabilities of a server that matter here.
#[derive(Default)]
struct Abilities {
    is_second: bool,
    shallow: bool,
    object_format: bool,
}

impl Abilities {
    /// Takes a word of protocol 0 or 1, or a line of protocol 2.
    fn note(&mut self, word: &[u8]) -> Result<(), RemoteError> {
        let text = String::from_utf8_lossy(word);
        match text.split_once('=') {
            Some(("object-format", "sha1")) => self.object_format = self.is_second,
            Some(("object-format", _)) => return Err(Flaw::Sha256.into()),
            Some(("fetch", features)) => self.shallow |= features.split(' ').any(|feature| feature == "shallow"),
            None if text == "shallow" => self.shallow = true,
            _ => {}
        }
        Ok(())
    }

    fn command(&self, name: &str) -> String {
        let mut request = packet(&format!("command={name}\n"));
        request += &packet(AGENT);
        if self.object_format {
            request += &packet("object-format=sha1\n");
        }
        request + DELIMITER
    }

    /// Returns the request for the pack. A server that cannot leave out the history sends it too, and it counts.
    fn want(&self, tip: ObjectId) -> String {
        let tip = tip.to_hex();
        let deepen = if self.shallow { packet("deepen 1\n") } else { String::new() };
        if self.is_second {
            let mut request = self.command("fetch");
            for line in ["ofs-delta\n", "no-progress\n"] {
                request += &packet(line);
            }
            let wanted = packet(&format!("want {tip}\n"));
            return request + &wanted + &deepen + &packet("done\n") + FLUSH;
        }
        let mut line = String::new();
        let _ = write!(line, "want {tip} side-band-64k ofs-delta no-progress {AGENT}");
        packet(&line) + &deepen + FLUSH + &packet("done\n")
    }
}

/// Reads the server's first answer: its capabilities, and before protocol 2 all its refs.
fn greet(session: &mut Session<'_>, tips: &mut Tips) -> Result<Abilities, RemoteError> {
    let mut abilities = Abilities::default();
    let mut lines = Lines::of(session);
    let mut first = lines.next()?.map(<[u8]>::to_vec);
    // Smart HTTP sends a list of one line before the rest.
    if first.as_deref().is_some_and(|line| line.starts_with(b"# service=")) {
        if lines.next()?.is_some() {
            return Err(Flaw::Protocol.into());
        }
        lines.packets.reset();
        first = lines.next()?.map(<[u8]>::to_vec);
    }
    if first.as_deref() == Some(b"version 2") {
        abilities.is_second = true;
        while let Some(line) = lines.next()? {
            abilities.note(line)?;
        }
        return Ok(abilities);
    }
    if first.as_deref() == Some(b"version 1") {
        first = lines.next()?.map(<[u8]>::to_vec);
    }
    // A repository without refs may send nothing at all.
    let Some(first) = first else { return Ok(abilities) };
    let mut parts = first.splitn(2, |byte| *byte == 0);
    let advertised = parts.next().unwrap_or_default();
    for word in parts.next().unwrap_or_default().split(|byte| *byte == b' ') {
        abilities.note(word)?;
    }
    note_ref(tips, advertised)?;
    while let Some(line) = lines.next()? {
        if !line.starts_with(b"shallow ") {
            note_ref(tips, line)?;
        }
    }
    Ok(abilities)
}

/// Lists the refs by protocol 2.
fn list(session: &mut Session<'_>, abilities: &Abilities, tips: &mut Tips) -> Result<(), RemoteError> {
    let mut request = abilities.command("ls-refs");
    for name in &tips.names {
        request += &packet(&format!("ref-prefix {name}\n"));
    }
    session.ask((request + FLUSH).into_bytes(), Session::refs())?;
    let mut lines = Lines::of(session);
    while let Some(line) = lines.next()? {
        note_ref(tips, line)?;
    }
    Ok(())
}

/// Parses an object name, a space and the name of a ref; in protocol 2, attributes after another space are ignored.
fn note_ref(tips: &mut Tips, line: &[u8]) -> Result<(), RemoteError> {
    let mut parts = line.split(|byte| *byte == b' ');
    match (parts.next(), parts.next()) {
        (Some(id), Some(name)) => tips.note(name, id),
        _ => Err(Flaw::Protocol.into()),
    }
}

/// The lines of an answer.
struct Lines<'s, 'a> {
    packets: StreamingPeekableIter<&'s mut Session<'a>>,
}

impl<'s, 'a> Lines<'s, 'a> {
    /// Returns a reader of lines that reads no byte beyond a line.
    fn of(session: &'s mut Session<'a>) -> Self {
        let mut packets = StreamingPeekableIter::new(session, ENDS, false);
        packets.fail_on_err_lines(true);
        Self { packets }
    }

    /// Returns the next line, without its line end; `None` at the end of a list.
    fn next(&mut self) -> Result<Option<&[u8]>, RemoteError> {
        match self.packets.read_line() {
            None => Ok(None),
            Some(Ok(Ok(line))) => Ok(line.as_text().map(|text| text.as_slice())),
            Some(Ok(Err(_))) => Err(Flaw::Protocol.into()),
            Some(Err(error)) => Err(match error.downcast::<ErrorLine>() {
                Ok(_) => RemoteError::NoRepository,
                Err(error) => RemoteError::of_read(error),
            }),
        }
    }

    /// Skips the sections before the pack, in protocol 2.
    fn skip_to_pack(&mut self) -> Result<(), RemoteError> {
        loop {
            match self.next()? {
                Some(b"packfile") => return Ok(()),
                Some(b"acknowledgments" | b"shallow-info" | b"wanted-refs") => {}
                _ => return Err(Flaw::Protocol.into()),
            }
            while self.next()?.is_some() {}
            if self.packets.stopped_at() != Some(PacketLineRef::Delimiter) {
                return Err(Flaw::Protocol.into());
            }
            self.packets.reset();
        }
    }

    /// Skips the list of shallow commits and the acknowledgment, in protocols 0 and 1.
    fn skip_answers(&mut self, shallow: bool) -> Result<(), RemoteError> {
        if shallow {
            while self.next()?.is_some() {}
            self.packets.reset();
        }
        match self.next()? {
            Some(line) if line == b"NAK" || line.starts_with(b"ACK ") => Ok(()),
            _ => Err(Flaw::Protocol.into()),
        }
    }
}
