//! A log that nobody reads must not hold up what it tells of.
//!
//! A container's standard error is a pipe, and whoever reads it may hang: its disk does. A write to a pipe that is full would wait for it,
//! and with it a session's keepalives. So what does not fit is lost, and that is told when there is room again.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that can be written to has room for this much (`PIPE_BUF`, pipe(7)).
const FITS: usize = 4096;

/// Writes whole lines, or none of a line that nobody takes.
#[derive(Debug)]
pub(super) struct Patient<W> {
    inner: W,
    lost: u64,
    /// What is said of so many lines that were lost.
    note: fn(u64) -> String,
}

impl<W: Write + AsFd> Patient<W> {
    pub(super) fn new(inner: W, note: fn(u64) -> String) -> Self {
        Self { inner, lost: 0, note }
    }

    fn has_room(&self) -> bool {
        let mut of = [PollFd::new(&self.inner, PollFlags::OUT)];
        // A look that is interrupted or refused says nothing: the write tells.
        poll(&mut of, Some(&Timespec::default())).map_or(true, |ready| ready > 0)
    }

    /// Whether all of it was taken.
    fn take(&mut self, line: &[u8]) -> io::Result<bool> {
        for part in line.chunks(FITS) {
            if !self.has_room() {
                return Ok(false);
            }
            self.inner.write_all(part)?;
        }
        Ok(true)
    }
}

impl<W: Write + AsFd> Write for Patient<W> {
    /// Takes a line, whatever becomes of it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lost > 0 && self.take((self.note)(self.lost).as_bytes())? {
            self.lost = 0;
        }
        if self.lost > 0 || !self.take(line)? {
            self.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn a_line_that_nobody_takes_is_lost_and_counted_and_that_is_told_when_somebody_reads() {
        let (reader, writer) = io::pipe().unwrap();
        let mut log = Patient::new(writer, |lost| format!("{lost} lost\n"));
        let line = [&[b'x'; 1000][..], b"\n"].concat();
        // Far more than a pipe holds.
        for _ in 0..1000 {
            log.write_all(&line).unwrap();
        }
        let lost = log.lost;
        assert!((1..1000).contains(&lost), "{lost}");
        let mut read = BufReader::new(reader).lines().map(Result::unwrap);
        for _ in 0..1000 - lost {
            assert_eq!(read.next().unwrap().len(), 1000);
        }
        log.write_all(b"again\n").unwrap();
        assert_eq!(
            [read.next().unwrap(), read.next().unwrap()],
            [format!("{lost} lost"), "again".to_owned()]
        );
    }

    #[test]
    fn a_reader_that_is_gone_and_a_disk_that_is_full_are_errors_and_hold_nothing_up() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert!(Patient::new(writer, |_| String::new()).write_all(b"x\n").is_err());
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(Patient::new(full, |_| String::new()).write_all(b"x\n").is_err());
    }
}
