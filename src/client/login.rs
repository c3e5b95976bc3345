//! The login at a server: of a file, of the environment, or of the user's netrc.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::domain::Secret;

/// The environment's variable with the name of the user.
const USER: &str = "LONGSHORE_USER";
/// The environment's variable with the password.
const PASSWORD: &str = "LONGSHORE_PASSWORD";
/// The environment's variable with a token, which takes the place of both.
const TOKEN: &str = "LONGSHORE_TOKEN";

/// A reason for which there is no login. None of them repeats what a file says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// Nothing tells a login.
    #[error("there is no login for {0}: give it by --user-file, by {TOKEN}, by {USER} and {PASSWORD}, or in ~/.netrc")]
    None(String),
    /// One of two variables is missing.
    #[error("{0} is set and {1} is not")]
    Half(&'static str, &'static str),
    /// A file cannot be read.
    #[error("cannot read the login from {}", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// A file has another form.
    #[error("{}: {told}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        told: &'static str,
    },
    /// It has bytes that no header field can have.
    #[error("the login has characters that cannot be sent")]
    Unsendable,
}

/// What is sent with each request to the control side.
#[derive(Clone)]
pub(crate) struct Login {
    name: HeaderName,
    value: HeaderValue,
}

impl Login {
    /// Finds the login for a host: of this file if one is named, else of the environment, else of the user's netrc.
    pub(crate) fn find(
        host: &str,
        file: Option<&Path>,
        environment: &[(OsString, OsString)],
    ) -> Result<Self, LoginError> {
        if let Some(file) = file {
            return Self::of_file(file);
        }
        let variable = |name: &str| {
            let found = environment.iter().find(|(key, value)| key == name && !value.is_empty());
            found.map(|(_, value)| value.to_string_lossy().into_owned())
        };
        if let Some(token) = variable(TOKEN) {
            return Self::token(&Secret::new(token.trim()));
        }
        match (variable(USER), variable(PASSWORD)) {
            (Some(user), Some(password)) => return Self::basic(&user, &Secret::new(password)),
            (Some(_), None) => return Err(LoginError::Half(USER, PASSWORD)),
            (None, Some(_)) => return Err(LoginError::Half(PASSWORD, USER)),
            (None, None) => {}
        }
        let named = variable("NETRC").map(PathBuf::from);
        let is_named = named.is_some();
        let Some(netrc) = named.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".netrc"))) else {
            return Err(LoginError::None(host.to_owned()));
        };
        match fs::read_to_string(&netrc) {
            Ok(text) => match of_netrc(&text, host) {
                Some((user, password)) => Self::basic(&user, &password),
                None => Err(LoginError::None(host.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => {
                Err(LoginError::None(host.to_owned()))
            }
            Err(error) => Err(LoginError::Unreadable(netrc, error)),
        }
    }

    /// Reads `user:password`, as `longshore init` and `longshore user add` write it.
    fn of_file(file: &Path) -> Result<Self, LoginError> {
        let text = fs::read_to_string(file).map_err(|error| LoginError::Unreadable(file.to_owned(), error))?;
        let text = Secret::new(text);
        let line = text.reveal().lines().next().unwrap_or_default();
        let (user, password) =
            line.split_once(':').filter(|(user, password)| !user.is_empty() && !password.is_empty()).ok_or_else(
                || LoginError::Malformed { file: file.to_owned(), told: "the first line is not user:password" },
            )?;
        Self::basic(user, &Secret::new(password))
    }

    fn basic(user: &str, password: &Secret) -> Result<Self, LoginError> {
        let pair = Secret::new(format!("{user}:{}", password.reveal()));
        Self::field(AUTHORIZATION, &Secret::new(format!("Basic {}", STANDARD.encode(pair.reveal()))))
    }

    /// A signed token is borne; any other is one of the identity service.
    fn token(token: &Secret) -> Result<Self, LoginError> {
        if token.reveal().split('.').count() == 3 {
            return Self::field(AUTHORIZATION, &Secret::new(format!("Bearer {}", token.reveal())));
        }
        Self::field(HeaderName::from_static("x-auth-token"), token)
    }

    fn field(name: HeaderName, text: &Secret) -> Result<Self, LoginError> {
        let mut value = HeaderValue::try_from(text.reveal()).map_err(|_| LoginError::Unsendable)?;
        // It is not printed then.
        value.set_sensitive(true);
        Ok(Self { name, value })
    }

    /// Returns the header field that tells the server who is calling.
    pub(super) fn header(&self) -> (HeaderName, HeaderValue) {
        (self.name.clone(), self.value.clone())
    }
}

/// Finds user and password for a host in a netrc, as curl does: the first entry of its name, or else `default`.
fn of_netrc(text: &str, host: &str) -> Option<(String, Secret)> {
    let mut words = Words(text);
    let mut is_ours = false;
    let (mut user, mut password) = (None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" | "default" => {
                if is_ours && password.is_some() {
                    break;
                }
                (user, password) = (None, None);
                is_ours = word == "default" || words.next()?.eq_ignore_ascii_case(host);
            }
            "login" => user = words.next(),
            "password" => password = words.next().map(Secret::new),
            "account" => {
                words.next();
            }
            "macdef" => words.skip_macro(),
            _ => {}
        }
    }
    if is_ours { user.zip(password) } else { None }
}

/// The words of a netrc: apart by white space, in quotes with backslashes if need be, without comments.
struct Words<'a>(&'a str);

impl Words<'_> {
    /// Passes over a macro, which ends with an empty line.
    fn skip_macro(&mut self) {
        self.0 = self.0.split_once("\n\n").map_or("", |(_, rest)| rest);
    }
}

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            self.0 = self.0.trim_start();
            if !self.0.starts_with('#') {
                break;
            }
            self.0 = self.0.split_once('\n').map_or("", |(_, rest)| rest);
        }
        let mut chars = self.0.char_indices();
        let is_quoted = self.0.starts_with('"');
        if is_quoted {
            chars.next();
        }
        let mut word = String::new();
        let mut is_escaped = false;
        for (at, char) in chars {
            match char {
                _ if is_escaped => {
                    is_escaped = false;
                    word.push(match char {
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        other => other,
                    });
                }
                '\\' if is_quoted => is_escaped = true,
                '"' if is_quoted => {
                    self.0 = &self.0[at + 1..];
                    return Some(word);
                }
                _ if !is_quoted && char.is_whitespace() => {
                    self.0 = &self.0[at..];
                    return Some(word);
                }
                _ => word.push(char),
            }
        }
        self.0 = "";
        (is_quoted || !word.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str) -> Option<(String, String)> {
        of_netrc(text, host).map(|(user, password)| (user, password.reveal().to_owned()))
    }

    fn pair(user: &str, password: &str) -> (String, String) {
        (user.to_owned(), password.to_owned())
    }

    #[test]
    fn a_netrc_is_read_as_curl_reads_it() {
        let text = "# of us\nmachine a.example login alice password one account x\n\
            macdef init\nmachine b.example login no password no\n\n\
            machine b.example\n\tlogin bob\n\tpassword \"t w\\\"o#\"\n\
            machine A.example login late password late\ndefault login any password #three\n";
        assert_eq!(found(text, "a.example"), Some(pair("alice", "one")));
        assert_eq!(found(text, "A.EXAMPLE"), Some(pair("alice", "one")));
        assert_eq!(found(text, "b.example"), Some(pair("bob", "t w\"o#")));
        assert_eq!(found("default login any password three", "c.example"), Some(pair("any", "three")));
        assert_eq!(found("machine c.example login only", "c.example"), None);
        assert_eq!(found("machine c.example password only", "c.example"), None);
        assert_eq!(found("machine c.example login a password b", "c.example.org"), None);
        assert_eq!(found("", "c.example"), None);
        assert_eq!(found("machine", "c.example"), None);
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn the_nearest_login_counts() {
        let folder = tempfile::tempdir().unwrap();
        let netrc = folder.path().join(".netrc");
        fs::write(&netrc, "machine h login n password n\n").unwrap();
        let file = folder.path().join("credentials");
        fs::write(&file, "f:f:f\n").unwrap();
        let home = ("HOME", folder.path().to_str().unwrap());
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let sent = |file: Option<&Path>, pairs: &[(&str, &str)]| {
            let (name, value) = Login::find("h", file, &environment(pairs)).unwrap().header();
            assert!(value.is_sensitive());
            (name.as_str().to_owned(), value.to_str().unwrap().to_owned())
        };
        let user = [home, (USER, "u"), (PASSWORD, "p")];
        assert_eq!(sent(None, &[home]), ("authorization".to_owned(), basic("n:n")));
        assert_eq!(sent(None, &user), ("authorization".to_owned(), basic("u:p")));
        assert_eq!(sent(None, &[home, (TOKEN, "t")]), ("x-auth-token".to_owned(), "t".to_owned()));
        assert_eq!(sent(None, &[home, (TOKEN, "a.b.c")]), ("authorization".to_owned(), "Bearer a.b.c".to_owned()));
        assert_eq!(sent(Some(&file), &user), ("authorization".to_owned(), basic("f:f:f")));
    }

    #[test]
    fn an_error_repeats_nothing_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        fs::write(&file, "sesame\n").unwrap();
        let Err(error) = Login::find("h", Some(&file), &[]) else { panic!("it has no user") };
        assert!(!error.to_string().contains("sesame"), "{error}");
        let Err(error) = Login::find("h", None, &environment(&[(USER, "u")])) else { panic!("no password") };
        assert!(error.to_string().contains(PASSWORD), "{error}");
        let missing = [("HOME", folder.path().to_str().unwrap())];
        let Err(error) = Login::find("h", None, &environment(&missing)) else { panic!("no login") };
        assert!(matches!(error, LoginError::None(_)), "{error}");
    }
}
