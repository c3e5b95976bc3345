//! Tokens that are good, and all the ways to forge one.

use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::domain::FixedClock;

const NOW: UnixTime = UnixTime(1_700_000_000_000);

struct Scene {
    tokens: AccessTokens,
    meta: Meta,
    clock: Arc<FixedClock>,
    directory: TempDir,
}

fn names() -> TokenNames {
    TokenNames { issuer: "hpcaitech.com".to_owned(), audience: "platform.colossalai.com".to_owned() }
}

/// A user `alice`, and nobody else.
async fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let meta = Meta::open(&directory.path().join("meta.db")).await.unwrap();
    meta.add_user("alice", "$argon2id$one", "red", None, NOW).await.unwrap();
    let clock = Arc::new(FixedClock::at(NOW));
    let path = directory.path().join("tokens.key");
    let tokens = AccessTokens::open(meta.clone(), clock.clone(), names(), path).unwrap();
    Scene { tokens, meta, clock, directory }
}

impl Scene {
    async fn alice(&self) -> UserRecord {
        self.meta.user("alice").await.unwrap().unwrap()
    }

    async fn token(&self) -> String {
        self.tokens.issue(&self.alice().await).await.unwrap().0.reveal().to_owned()
    }

    /// What a token of hers says now.
    async fn claims(&self) -> Claims {
        let key = self.key().await;
        self.tokens.claims(&self.alice().await, &key, NOW)
    }

    async fn key(&self) -> Arc<Key> {
        self.tokens.keys.current(NOW).await.unwrap()
    }

    async fn is_taken(&self, token: &str) -> bool {
        let cookie = format!("AccessToken={token}");
        self.ask(&[(header::COOKIE, &*cookie)]).await.is_ok()
    }

    async fn ask(&self, fields: &[(header::HeaderName, &str)]) -> Result<String, Fault> {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        self.tokens.authenticate(&fields.collect()).await.map(|principal| principal.user)
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decoded(token: &str, at: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_says_what_the_vendors_say_and_who_brings_it() {
    let scene = scene().await;
    let (token, seconds) = scene.tokens.issue(&scene.alice().await).await.unwrap();
    let token = token.reveal();
    assert_eq!(seconds, 86_400);
    let (head, claims) = (decoded(token, 0), decoded(token, 1));
    assert_eq!((&head["alg"], &head["typ"]), (&json!("RS256"), &json!("JWT")));
    assert_eq!(head["kid"], json!(scene.key().await.id()));
    assert_eq!(claims["aud"], json!(["platform.colossalai.com"]));
    assert_eq!(claims["iss"], json!("hpcaitech.com"));
    assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1_700_000_000), &json!(1_700_086_400)));
    assert_eq!((&claims["group"], &claims["sub"]), (&json!(["user"]), &json!(scene.alice().await.id.to_string())));
    assert!(!claims["pwd"].as_str().unwrap().contains("argon2"));
    assert!(token.len() < 900);

    let by = |name: header::HeaderName, value: String| (name, value);
    for (name, value) in [
        by(header::COOKIE, format!("AccessToken={token}")),
        by(header::COOKIE, format!("a=b; AccessToken=\"{token}\"; c=\"d;e\"")),
        by(header::COOKIE, format!("AccessToken=stale; AccessToken = {token}")),
        by(header::AUTHORIZATION, format!("Bearer {token}")),
        by(header::AUTHORIZATION, format!("bearer   {token} ")),
    ] {
        assert_eq!(scene.ask(&[(name, &*value)]).await.unwrap(), "alice", "{value}");
    }
    let cookie = format!("AccessToken={token}");
    let split = [(header::COOKIE, "theme=dark"), (header::COOKIE, &*cookie), (header::AUTHORIZATION, "Basic eA==")];
    assert_eq!(scene.ask(&split).await.unwrap(), "alice");
    for value in [format!("accesstoken={token}"), format!("AccessToken{token}"), format!("X={token}"), String::new()] {
        let fault = scene.ask(&[(header::COOKIE, &*value)]).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unauthenticated);
        assert!(!format!("{fault:?}").contains(token));
    }
    // Only so many are looked at.
    let many = format!("{}{cookie}", "AccessToken=x; ".repeat(MOST));
    assert!(scene.ask(&[(header::COOKIE, &*many)]).await.is_err());
    assert!(scene.ask(&[]).await.is_err());
}

#[tokio::test]
async fn administrators_are_of_another_group() {
    let scene = scene().await;
    let admin = UserRecord { is_admin: true, ..scene.alice().await };
    let key = scene.key().await;
    assert_eq!(scene.tokens.claims(&admin, &key, NOW).group, ["admin"]);
    // The token does not make her one.
    let claims = Claims { group: vec!["admin".to_owned()], ..scene.claims().await };
    let token = key.sign(&claims).unwrap();
    let cookie = HeaderValue::try_from(format!("AccessToken={token}")).unwrap();
    let principal = scene.tokens.authenticate(&[(header::COOKIE, cookie)].into_iter().collect()).await.unwrap();
    assert!(!principal.is_admin);
}

#[tokio::test]
async fn a_token_is_good_for_a_day_and_after_a_restart() {
    let scene = scene().await;
    let token = scene.token().await;
    assert!(scene.is_taken(&token).await);
    scene.clock.advance_seconds(86_399);
    assert!(scene.is_taken(&token).await);
    let path = scene.directory.path().join("tokens.key");
    let again = AccessTokens::open(scene.meta.clone(), scene.clock.clone(), names(), path).unwrap();
    assert!(again.verified(&token, scene.clock.now()).is_some());
    scene.clock.advance_seconds(1);
    assert!(!scene.is_taken(&token).await);
}

#[tokio::test]
async fn a_token_outlives_the_change_of_keys_by_its_own_time() {
    let scene = scene().await;
    scene.key().await;
    scene.clock.advance_seconds(30 * 86_400 - 1);
    let token = scene.token().await;
    scene.clock.advance_seconds(2);
    let next = scene.token().await;
    assert_ne!(decoded(&token, 0)["kid"], decoded(&next, 0)["kid"]);
    assert!(scene.is_taken(&token).await && scene.is_taken(&next).await);
    scene.clock.advance_seconds(86_397);
    assert!(scene.is_taken(&token).await);
    scene.clock.advance_seconds(1);
    assert!(!scene.is_taken(&token).await && scene.is_taken(&next).await);
}

#[tokio::test]
async fn a_new_password_and_the_removal_of_a_user_end_their_tokens() {
    let scene = scene().await;
    let old = scene.token().await;
    scene.meta.set_password("alice", "$argon2id$two").await.unwrap();
    assert!(!scene.is_taken(&old).await);
    let new = scene.token().await;
    assert!(scene.is_taken(&new).await);
    scene.meta.remove_user("alice").await.unwrap();
    assert!(!scene.is_taken(&new).await);
    // Another user of the same name and password is another.
    scene.meta.add_user("alice", "$argon2id$two", "red", None, NOW).await.unwrap();
    assert!(!scene.is_taken(&new).await);
}

#[tokio::test]
async fn claims_that_are_not_ours_are_refused_under_our_own_key() {
    let scene = scene().await;
    let (good, key) = (scene.claims().await, scene.key().await);
    assert!(scene.is_taken(&key.sign(&good).unwrap()).await);
    let other = UserId::random().to_string();
    let plain_id = good.sub.replace('-', "");
    let forged = [
        Claims { aud: vec!["platform.example.com".to_owned()], ..good.clone() },
        Claims { aud: vec![], ..good.clone() },
        Claims { iss: "example.com".to_owned(), ..good.clone() },
        Claims { iss: String::new(), ..good.clone() },
        Claims { iat: good.iat - 86_400, exp: good.iat, ..good.clone() },
        Claims { iat: good.iat + 61, exp: good.exp + 61, ..good.clone() },
        Claims { iat: good.iat + 10_000_000, exp: good.exp + 10_000_000, ..good.clone() },
        Claims { exp: good.exp + 1, ..good.clone() },
        Claims { exp: i64::MAX, ..good.clone() },
        Claims { iat: i64::MIN, ..good.clone() },
        Claims { iat: i64::MAX, exp: i64::MIN, ..good.clone() },
        Claims { sub: other, ..good.clone() },
        Claims { sub: plain_id, ..good.clone() },
        Claims { sub: "alice".to_owned(), ..good.clone() },
        Claims { pwd: String::new(), ..good.clone() },
    ];
    for claims in forged {
        assert!(!scene.is_taken(&key.sign(&claims).unwrap()).await, "{claims:?}");
    }
    // Within the leeway of clocks.
    let ahead = Claims { iat: good.iat + 60, exp: good.exp + 60, ..good.clone() };
    assert!(scene.is_taken(&key.sign(&ahead).unwrap()).await);
    for name in ["aud", "exp", "iat", "iss", "sub", "pwd"] {
        let mut claims = serde_json::to_value(&good).unwrap();
        claims.as_object_mut().unwrap().remove(name);
        assert!(!scene.is_taken(&key.sign(&claims).unwrap()).await, "without {name}");
        claims[name] = json!({});
        assert!(!scene.is_taken(&key.sign(&claims).unwrap()).await, "with another {name}");
    }
}

#[tokio::test]
async fn signatures_that_are_not_ours_are_refused() {
    let scene = scene().await;
    let (claims, key) = (scene.claims().await, scene.key().await);
    let good = key.sign(&claims).unwrap();
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };

    // No signature, by whatever name.
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let head = part(&json!({"typ": "JWT", "alg": alg, "kid": key.id()}));
        for signature in ["", signature] {
            assert!(!scene.is_taken(&format!("{head}.{body}.{signature}")).await, "{alg}");
        }
        assert!(!scene.is_taken(&format!("{head}.{body}")).await);
    }

    // The public half taken for a secret that both sides share, in each of its spellings.
    let stored: Value =
        serde_json::from_slice(&std::fs::read(scene.directory.path().join("tokens.key")).unwrap()).unwrap();
    let private = STANDARD.decode(stored[0]["private"].as_str().unwrap()).unwrap();
    let pair = KeyPair::from_pkcs8(&private).unwrap();
    let public = pair.public_key().as_ref();
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n", STANDARD.encode(public));
    for secret in [public, pem.as_bytes(), b""] {
        for (alg, name) in [(Algorithm::HS256, "HS256"), (Algorithm::HS512, "HS512")] {
            let mut header = Header::new(alg);
            header.kid = Some(key.id().to_owned());
            // The library may refuse so short a secret; then there is nothing to refuse here.
            let Ok(token) = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)) else { continue };
            assert_eq!(decoded(&token, 0)["alg"], json!(name));
            assert!(!scene.is_taken(&token).await, "{name}");
        }
    }

    // Another algorithm of RSA under our own key.
    let der = crate::auth::signing_keys::pkcs1_of(&private).unwrap();
    for alg in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let mut header = Header::new(alg);
        header.kid = Some(key.id().to_owned());
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_rsa_der(der)).unwrap();
        assert!(!scene.is_taken(&token).await, "{alg:?}");
    }

    // Another key, under its own name, under ours, under none, and brought along.
    let foreign = KeyRing::open(scene.directory.path().join("foreign.key"), Purpose::Tokens).map(Arc::new).unwrap();
    let foreign = foreign.current(NOW).await.unwrap();
    let theirs = foreign.sign(&claims).unwrap();
    assert!(!scene.is_taken(&theirs).await);
    let [_, _, forged] = theirs.split('.').collect::<Vec<_>>()[..] else { panic!("{theirs}") };
    assert!(!scene.is_taken(&format!("{head}.{body}.{forged}")).await);
    for head in [
        json!({"typ": "JWT", "alg": "RS256"}),
        json!({"typ": "JWT", "alg": "RS256", "kid": ""}),
        json!({"typ": "JWT", "alg": "RS256", "kid": null}),
        json!({"typ": "JWT", "alg": "RS256", "kid": "../../tokens.key"}),
        json!({"typ": "JWT", "alg": "RS256", "kid": foreign.id(), "jku": "http://127.0.0.1/keys"}),
    ] {
        assert!(!scene.is_taken(&format!("{}.{body}.{signature}", part(&head))).await, "{head}");
    }

    // What was signed is not what is said.
    let other = Claims { group: vec!["admin".to_owned()], ..claims.clone() };
    let other = part(&serde_json::to_value(&other).unwrap());
    assert!(!scene.is_taken(&format!("{head}.{other}.{signature}")).await);
    assert!(!scene.is_taken(&format!("{head}.{body}.{}", &signature[1..])).await);
    assert!(scene.is_taken(&good).await);
}

#[tokio::test]
async fn garbage_is_refused() {
    let scene = scene().await;
    let good = scene.token().await;
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let large = part(&json!({"x": "x".repeat(LONGEST)}));
    for token in [
        "",
        ".",
        "..",
        "...",
        "x.y.z",
        "AccessToken",
        &format!("{good}."),
        &format!(".{good}"),
        &format!("{good}.{signature}"),
        &format!("{head}.{body}"),
        &format!("{head}..{signature}"),
        &format!("{head}.{body}.{signature}="),
        &format!("{head}.{large}.{signature}"),
        &format!("{large}.{body}.{signature}"),
        &"A".repeat(200_000),
        &".".repeat(200_000),
        &format!("{}.{body}.{signature}", part(&json!([]))),
        &format!("{}.{body}.{signature}", URL_SAFE_NO_PAD.encode([0xff; 40])),
    ] {
        assert!(!scene.is_taken(token).await, "{}", &token[..token.len().min(80)]);
    }
    let longest = scene.tokens.verified(&"a".repeat(LONGEST + 1), NOW);
    assert!(longest.is_none());
}
