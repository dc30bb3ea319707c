//! Asks BIRD over a connection to its control socket that stays open: some 50 µs a question.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::await_until::pause;

/// Between two questions: small beside the milliseconds that are measured, and little load for BIRD.
const PAUSE: Duration = Duration::from_micros(500);

/// A connection to BIRD's control socket.
#[derive(Debug)]
pub(super) struct Bird {
    reader: BufReader<UnixStream>,
    greeting: String,
}

impl Bird {
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut bird = Self { reader: BufReader::new(stream), greeting: String::new() };
        bird.greeting = bird.reply()?;
        Ok(bird)
    }

    /// `BIRD 2.0.12`.
    pub(super) fn version(&self) -> &str {
        self.greeting.trim().trim_start_matches("0001 ").trim_end_matches(" ready.")
    }

    /// When BIRD first had a route to this address alone; `None` when the deadline came first.
    pub(super) fn await_route(&mut self, address: IpAddr, deadline: Instant) -> Result<Option<Instant>> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let question = format!("show route {address}/{length}\n");
        loop {
            let begin = Instant::now();
            let found = self.ask(&question)?.contains("\tvia ");
            let now = Instant::now();
            if found {
                return Ok(Some(now));
            }
            if begin >= deadline {
                return Ok(None);
            }
            pause(PAUSE);
        }
    }

    /// The answer to a command, which ends with a newline.
    pub(super) fn ask(&mut self, command: &str) -> Result<String> {
        self.reader.get_ref().write_all(command.as_bytes())?;
        self.reply()
    }

    /// One reply: lines up to the one that begins with a code and a space.
    fn reply(&mut self) -> Result<String> {
        let mut text = String::new();
        loop {
            let begin = text.len();
            if self.reader.read_line(&mut text)? == 0 {
                bail!("BIRD closed its control socket");
            }
            let line = text.as_bytes().get(begin..).unwrap_or_default();
            if line.len() > 4 && line[..4].iter().all(u8::is_ascii_digit) && line[4] == b' ' {
                return Ok(text);
            }
        }
    }
}
