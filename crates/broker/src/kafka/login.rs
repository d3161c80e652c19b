//! What a client shows the cluster, and what the cluster says to it: bearer tokens and refusals.
//!
//! librdkafka asks for a token when a client starts and again when four fifths of its life are over, always on the thread that
//! polls the client. A client that nobody polls all the time is therefore polled before its first use ([`serve`]), and by a thread of
//! the cluster from then on.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, alphabet, engine::general_purpose};
use parking_lot::Mutex;
use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::RDKafkaLogLevel as Level,
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use serde_json::{Map, Value};

/// How long a complaint of one kind is not logged again: a client that cannot connect complains ten times a second.
const SILENCE: Duration = Duration::from_secs(30);

/// Where bearer tokens come from: asked anew for each, so that a file may be replaced while it is in use.
///
/// A token is a JSON Web Token (RFC 7519). Its `exp` says how long it is used, and its `sub` as whom; whether it is genuine
/// is the cluster's to judge.
#[derive(Clone)]
pub struct TokenSource(Arc<dyn Fn() -> Result<String, String> + Send + Sync>);

impl TokenSource {
    /// Makes a source of a function that reads the token. Where it cannot, it says so in a sentence that holds no part of it.
    pub fn new(read: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the token that holds now.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it, never what it holds.
    pub(super) fn read(&self) -> Result<OAuthToken, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        token((self.0)()?.trim(), now)
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource(..)")
    }
}

/// The same source, not merely one that gives the same tokens.
impl PartialEq for TokenSource {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TokenSource {}

/// Takes lifetime and name from a token's claims.
fn token(text: &str, now: Duration) -> Result<OAuthToken, String> {
    let claims =
        claims(text).ok_or("the token is no JSON Web Token, allowed is HEADER.CLAIMS.SIGNATURE in base64url")?;
    let expires = claims.get("exp").and_then(Value::as_f64).filter(|seconds| seconds.is_finite());
    let expires = expires.ok_or("the token's claim \"exp\" is missing or no number, allowed are seconds since 1970")?;
    let name = claims.get("sub").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("the token's claim \"sub\" is missing or no text, allowed is a name")?;
    if name.contains('\0') {
        return Err("the token's claim \"sub\" holds a zero, allowed is a name".to_owned());
    }
    let left = expires - now.as_secs_f64();
    if left <= 0.0 {
        return Err(format!("the token expired {:.0} s ago, allowed is one that is still valid", -left));
    }
    Ok(OAuthToken { token: text.to_owned(), principal_name: name.to_owned(), lifetime_ms: (expires * 1000.0) as i64 })
}

fn claims(text: &str) -> Option<Map<String, Value>> {
    let mut parts = text.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    // Padded or not: both are seen.
    let lenient = general_purpose::NO_PAD.with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    let bytes = general_purpose::GeneralPurpose::new(&alphabet::URL_SAFE, lenient).decode(claims).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The context of a client, or the part of it that has to do with being let in.
#[derive(Default)]
pub(super) struct Login {
    source: Option<TokenSource>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Why the cluster, or we ourselves, did not let the client in.
    refused: Option<String>,
    /// What it complained about last.
    complaint: Option<String>,
    /// The kind of complaint that was logged last, and when.
    logged: Option<(Option<Code>, Instant)>,
    /// Milliseconds since 1970 until which the last good token holds.
    holds_until: i64,
    /// The newest token could not be read.
    unreadable: bool,
}

impl Login {
    pub(super) fn new(source: Option<TokenSource>) -> Self {
        Self { source, state: Mutex::default() }
    }

    /// Answers librdkafka, which asks again in ten seconds after an error.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let source = self.source.as_ref().ok_or("no token is set")?;
        let token = source.read();
        let mut state = self.state.lock();
        state.unreadable = token.is_err();
        if let Ok(token) = &token {
            state.holds_until = token.lifetime_ms;
            state.refused = None;
        }
        Ok(token?)
    }

    /// Notes what librdkafka complains about.
    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let mut state = self.state.lock();
        let code = error.rdkafka_error_code();
        // That all brokers are down says less than why one is, and the end of a partition is no fault.
        let says_nothing = matches!(code, Some(Code::AllBrokersDown | Code::PartitionEOF));
        if says_nothing || state.logged.is_some_and(|(last, at)| last == code && at.elapsed() < SILENCE) {
            tracing::debug!("librdkafka: {error}: {reason}");
        } else {
            tracing::error!("librdkafka: {error}: {reason}");
            state.logged = Some((code, Instant::now()));
        }
        // Of TLS 1.3 the client's certificate is judged after the handshake: for librdkafka the connection just broke.
        let by_tls = reason.contains(":SSL routines:");
        if by_tls || matches!(code, Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL)) {
            state.refused = Some(reason.to_owned());
        }
        if !says_nothing {
            state.complaint = Some(reason.to_owned());
        }
    }

    /// Returns why the client was not let in, if that has happened.
    pub(super) fn refused(&self) -> Option<String> {
        self.state.lock().refused.clone()
    }

    /// Returns what the client complained about last.
    pub(super) fn complaint(&self) -> Option<String> {
        self.state.lock().complaint.clone()
    }

    /// Whether a failed authentication is no more than a new token that cannot be read yet, while the one before still holds.
    pub(super) fn outlasts(&self) -> bool {
        let state = self.state.lock();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        state.unreadable && u128::try_from(state.holds_until).is_ok_and(|until| now.as_millis() < until)
    }
}

/// Logs what a client says about itself.
pub(super) fn log(level: Level, facility: &str, message: &str) {
    match level {
        // Why a connection failed also comes as an error, and the settings it warns of are ours.
        _ if matches!(facility, "FAIL" | "CONFWARN") => tracing::debug!("librdkafka: {facility}: {message}"),
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
            tracing::error!("librdkafka: {facility}: {message}");
        }
        Level::Warning => tracing::warn!("librdkafka: {facility}: {message}"),
        Level::Notice | Level::Info => tracing::info!("librdkafka: {facility}: {message}"),
        Level::Debug => tracing::debug!("librdkafka: {facility}: {message}"),
    }
}

/// The methods of a [`ClientContext`] that has a [`Login`] in its field `login`.
macro_rules! by_login {
    () => {
        const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

        fn log(&self, level: ::rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
            $crate::kafka::login::log(level, facility, message);
        }

        fn error(&self, error: ::rdkafka::error::KafkaError, reason: &str) {
            self.login.note(&error, reason);
        }

        fn generate_oauth_token(
            &self,
            _config: Option<&str>,
        ) -> Result<::rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
            self.login.token()
        }
    };
}
pub(super) use by_login;

impl ClientContext for Login {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: Level, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // A client with this context alone belongs to no group; librdkafka looks one up nevertheless.
        if error.rdkafka_error_code() != Some(Code::GroupAuthorizationFailed) {
            self.note(&error, reason);
        }
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token()
    }
}

impl ConsumerContext for Login {}

/// Lets a consumer say what it has to say, such as that it needs a token. It must not be reading.
pub(super) fn serve<C: ConsumerContext>(client: &BaseConsumer<C>) {
    // Errors have been noted by the context.
    let _ = client.poll(Duration::ZERO);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn jwt(claims: &str) -> String {
        let part = |text: &str| general_purpose::URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(claims), part("signature"))
    }

    #[test]
    fn lifetime_and_name_come_from_the_claims() {
        let text = jwt(r#"{"exp":1800003600.5,"sub":"system:serviceaccount:ml:vad","aud":["kafka"]}"#);
        let token = token(&text, NOW).unwrap();
        assert_eq!(token.token, text);
        assert_eq!(
            (token.principal_name.as_str(), token.lifetime_ms),
            ("system:serviceaccount:ml:vad", 1_800_003_600_500)
        );
    }

    #[test]
    fn claims_may_be_padded() {
        let claims = general_purpose::URL_SAFE.encode(r#"{"exp":1800000001,"sub":"a"}"#);
        assert!(claims.ends_with('='));
        assert!(token(&format!("e30.{claims}."), NOW).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_and_never_the_token() {
        for (text, expected) in [
            (String::new(), "no JSON Web Token"),
            ("hunter2".to_owned(), "no JSON Web Token"),
            ("hunter2.hunter2.hunter2".to_owned(), "no JSON Web Token"),
            (format!("{}.hunter2", jwt(r#"{"exp":1800000001,"sub":"hunter2"}"#)), "no JSON Web Token"),
            (jwt(r#"{"sub":"hunter2"}"#), "\"exp\" is missing"),
            (jwt(r#"{"exp":"hunter2","sub":"a"}"#), "no number"),
            (jwt(r#"{"exp":1800000001}"#), "\"sub\" is missing"),
            (jwt(r#"{"exp":1800000001,"sub":7}"#), "no text"),
            (jwt("{\"exp\":1800000001,\"sub\":\"hunter2\\u0000\"}"), "holds a zero"),
            (jwt(r#"{"exp":1799999940,"sub":"hunter2"}"#), "expired 60 s ago"),
        ] {
            let Err(said) = token(&text, NOW) else { panic!("{text} was taken") };
            assert!(said.contains(expected), "{text}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_token_that_holds_bridges_one_that_cannot_be_read() {
        let text = Arc::new(Mutex::new(jwt(r#"{"exp":4102444800,"sub":"a"}"#)));
        let shared = Arc::clone(&text);
        let login = Login::new(Some(TokenSource::new(move || Ok(shared.lock().clone()))));
        assert!(!login.outlasts());
        assert!(login.token().is_ok() && !login.outlasts());
        *text.lock() = String::new();
        assert!(login.token().is_err() && login.outlasts());
        *text.lock() = jwt(r#"{"exp":4102444800,"sub":"a"}"#);
        assert!(login.token().is_ok() && !login.outlasts());
    }
}
