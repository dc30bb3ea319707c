//! The annotation `herald.io/probe`: how a Service's endpoints are to be probed, in one line.
//!
//! ```text
//! herald.io/probe: "tcp"
//! herald.io/probe: "http path=/healthz port=8080 interval=100ms timeout=50ms fail=3 pass=2"
//! ```
//!
//! Strict: one word nobody knows, and the Service is not probed at all; the error says which word, and what to write.
//! Half a probe would be trusted like a whole one.

use std::fmt;
use std::time::Duration;

use herald_config::parse_duration;

/// The annotation's key.
pub const ANNOTATION: &str = "herald.io/probe";

const EXAMPLE: &str = "http path=/healthz interval=1s";
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(300);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const MOST: u16 = 100;
const LONGEST_PATH: usize = 256;

/// What is asked of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// That it accepts a connection.
    Tcp,
    /// That it answers `GET path` with 2xx or 3xx.
    Http {
        /// Begins with `/`.
        path: Box<str>,
    },
}

/// How the endpoints of a Service are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSpec {
    /// What is asked.
    pub kind: ProbeKind,
    /// The port of the pod; `None`: each TCP port of the Service by itself.
    pub port: Option<u16>,
    /// From the begin of one probe to the begin of the next.
    pub interval: Duration,
    /// An answer that takes longer is none. At most the interval.
    pub timeout: Duration,
    /// So many failures in a row take an endpoint out.
    pub fail: u16,
    /// So many passes in a row bring it back.
    pub pass: u16,
}

/// Why an annotation is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; write for example \"{EXAMPLE}\"")]
pub struct SpecError {
    problem: String,
}

fn error<T>(problem: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError { problem: problem.into() })
}

/// What users wrote, cut to a length that fits an Event.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(64).collect();
    format!("{cut:?}")
}

impl ProbeSpec {
    /// Reads the annotation's value.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let mut words = text.split_whitespace();
        let http = match words.next() {
            Some("tcp") => false,
            Some("http") => true,
            Some(other) => return error(format!("{} is neither tcp nor http", shown(other))),
            None => return error("the value is empty"),
        };
        let mut fields = Fields::default();
        for word in words {
            fields.read(word)?;
        }
        fields.spec(http)
    }
}

/// The settings that were written; none may stand twice.
#[derive(Debug, Default)]
struct Fields {
    path: Option<Box<str>>,
    port: Option<u16>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    fail: Option<u16>,
    pass: Option<u16>,
}

impl Fields {
    fn read(&mut self, word: &str) -> Result<(), SpecError> {
        let Some((key, value)) = word.split_once('=') else {
            return error(format!("{} is not a setting such as interval=1s", shown(word)));
        };
        let twice = match key {
            "path" => self.path.replace(path(value)?).is_some(),
            "port" => self.port.replace(number("port", value, u16::MAX)?).is_some(),
            "interval" => {
                let interval = duration("interval", value)?;
                if interval < SHORTEST || interval > LONGEST {
                    return error(format!("interval={value} is outside 100ms to 5m"));
                }
                self.interval.replace(interval).is_some()
            }
            "timeout" => {
                let timeout = duration("timeout", value)?;
                if timeout < SHORTEST_TIMEOUT {
                    return error(format!("timeout={value} is shorter than 10ms"));
                }
                self.timeout.replace(timeout).is_some()
            }
            "fail" => self.fail.replace(number("fail", value, MOST)?).is_some(),
            "pass" => self.pass.replace(number("pass", value, MOST)?).is_some(),
            other => {
                return error(format!(
                    "{} is none of path, port, interval, timeout, fail and pass",
                    shown(other)
                ));
            }
        };
        if twice { error(format!("{key} stands twice")) } else { Ok(()) }
    }

    fn spec(self, http: bool) -> Result<ProbeSpec, SpecError> {
        let Self { path, port, interval, timeout, fail, pass } = self;
        let kind = match (http, path) {
            (true, path) => ProbeKind::Http { path: path.unwrap_or_else(|| "/".into()) },
            (false, None) => ProbeKind::Tcp,
            (false, Some(_)) => return error("tcp has no path: write http, or leave the path out"),
        };
        let interval = interval.unwrap_or(DEFAULT_INTERVAL);
        let timeout = timeout.unwrap_or_else(|| (interval / 2).min(LONGEST_DEFAULT_TIMEOUT));
        if timeout > interval {
            return error(format!("timeout={timeout:?} is longer than interval={interval:?}"));
        }
        Ok(ProbeSpec { kind, port, interval, timeout, fail: fail.unwrap_or(3), pass: pass.unwrap_or(2) })
    }
}

fn path(value: &str) -> Result<Box<str>, SpecError> {
    // Nothing that could end the request line, or begin another header.
    if !value.starts_with('/') || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return error(format!("path={} does not begin with / or is not plain ASCII", shown(value)));
    }
    if value.len() > LONGEST_PATH {
        return error(format!("the path is longer than {LONGEST_PATH} bytes"));
    }
    Ok(value.into())
}

fn number(key: &str, value: &str, most: u16) -> Result<u16, SpecError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits && (1..=most).contains(&number) => Ok(number),
        _ => error(format!("{key}={} is not a number from 1 to {most}", shown(value))),
    }
}

fn duration(key: &str, value: &str) -> Result<Duration, SpecError> {
    parse_duration(value).or_else(|problem| error(format!("{key}: {problem}")))
}

impl fmt::Display for ProbeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, port, interval, timeout, fail, pass } = self;
        match kind {
            ProbeKind::Tcp => f.write_str("tcp")?,
            ProbeKind::Http { path } => write!(f, "http path={path}")?,
        }
        if let Some(port) = port {
            write!(f, " port={port}")?;
        }
        write!(f, " interval={interval:?} timeout={timeout:?} fail={fail} pass={pass}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_line_says_all_and_most_of_it_has_a_default() {
        let http = |path: &str| ProbeKind::Http { path: path.into() };
        let tcp = ProbeSpec {
            kind: ProbeKind::Tcp,
            port: None,
            interval: 1000 * MS,
            timeout: 500 * MS,
            fail: 3,
            pass: 2,
        };
        for (text, spec) in [
            ("tcp", tcp.clone()),
            ("  tcp\n", tcp.clone()),
            ("tcp port=53", ProbeSpec { port: Some(53), ..tcp.clone() }),
            ("tcp interval=10s", ProbeSpec { interval: 10_000 * MS, timeout: 1000 * MS, ..tcp.clone() }),
            ("tcp interval=100ms", ProbeSpec { interval: 100 * MS, timeout: 50 * MS, ..tcp.clone() }),
            ("tcp timeout=1s", ProbeSpec { timeout: 1000 * MS, ..tcp.clone() }),
            ("http", ProbeSpec { kind: http("/"), ..tcp.clone() }),
            (
                "http path=/healthz?full=1 port=8080 interval=100ms timeout=50ms fail=1 pass=5",
                ProbeSpec {
                    kind: http("/healthz?full=1"),
                    port: Some(8080),
                    interval: 100 * MS,
                    timeout: 50 * MS,
                    fail: 1,
                    pass: 5,
                },
            ),
        ] {
            assert_eq!(ProbeSpec::parse(text), Ok(spec), "{text}");
        }
    }

    #[test]
    fn nonsense_is_named_with_an_example_of_what_is_right() {
        for (text, problem) in [
            ("", "the value is empty"),
            ("https", "\"https\" is neither tcp nor http"),
            ("TCP", "\"TCP\" is neither tcp nor http"),
            ("true", "\"true\" is neither tcp nor http"),
            ("tcp 8080", "\"8080\" is not a setting such as interval=1s"),
            ("tcp port=0", "port=\"0\" is not a number from 1 to 65535"),
            ("tcp port=+5", "port=\"+5\" is not a number from 1 to 65535"),
            ("tcp port=65536", "port=\"65536\" is not a number from 1 to 65535"),
            ("tcp port=http", "port=\"http\" is not a number from 1 to 65535"),
            ("tcp path=/x", "tcp has no path: write http, or leave the path out"),
            ("http path=x", "path=\"x\" does not begin with / or is not plain ASCII"),
            ("http path=/ü", "path=\"/ü\" does not begin with / or is not plain ASCII"),
            ("tcp interval=50ms", "interval=50ms is outside 100ms to 5m"),
            ("tcp interval=6m", "interval=6m is outside 100ms to 5m"),
            ("tcp interval=1", "interval: 1 has no unit: write 1s"),
            ("tcp timeout=2s", "timeout=2s is longer than interval=1s"),
            ("tcp timeout=1ms", "timeout=1ms is shorter than 10ms"),
            ("tcp fail=0", "fail=\"0\" is not a number from 1 to 100"),
            ("tcp pass=101", "pass=\"101\" is not a number from 1 to 100"),
            ("tcp fail=2 fail=2", "fail stands twice"),
            ("tcp threshold=2", "\"threshold\" is none of path, port, interval, timeout, fail and pass"),
        ] {
            let error = ProbeSpec::parse(text).unwrap_err().to_string();
            let expected = format!("{problem}; write for example \"http path=/healthz interval=1s\"");
            assert_eq!(error, expected, "{text}");
        }
        assert!(ProbeSpec::parse(EXAMPLE).is_ok(), "the example is right");
    }

    proptest! {
        #[test]
        fn what_is_shown_of_a_spec_is_read_as_the_same_spec(
            http: bool, port in proptest::option::of(1..=u16::MAX), interval in 100u64..300_000, fail in 1..=100u16, pass in 1..=100u16,
        ) {
            let kind = if http { ProbeKind::Http { path: "/a?b=c".into() } } else { ProbeKind::Tcp };
            let interval = Duration::from_millis(interval);
            let spec = ProbeSpec { kind, port, interval, timeout: interval / 2, fail, pass };
            prop_assert_eq!(ProbeSpec::parse(&spec.to_string()), Ok(spec));
        }

        #[test]
        fn no_text_panics_and_none_makes_an_error_too_long_for_an_event(text in "(tcp|http)? ?.{0,300}") {
            if let Err(error) = ProbeSpec::parse(&text) {
                prop_assert!(error.to_string().len() < 900);
            }
        }
    }
}
