//! The file: written by a thread of its own, read once.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest::{Context, SHA256};
use tokio::sync::{mpsc, oneshot};

use super::{Identity, Remembered, SnapshotMetrics, Unusable, image, path};

/// The largest snapshot that is written or read.
pub(super) const MAX_SIZE: u64 = 256 << 20;
/// A snapshot that was right for the last time longer ago is not used.
pub(super) const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Pieces on their way to the thread; the loop encodes no further ones meanwhile.
const PIECES: usize = 2;
/// For root alone.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Piece {
    /// The next octets of a snapshot.
    Part {
        /// Without the checksum.
        octets: Vec<u8>,
        /// A snapshot begins with them; one that was begun before is dropped.
        first: bool,
        /// It ends with them.
        last: bool,
    },
    /// The API server is heard, and has said nothing that is not in the last snapshot.
    StillRight,
    /// Answered when all before it is done.
    Flush(oneshot::Sender<()>),
}

/// The way to the thread, which ends when this is dropped.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    /// What it is to do.
    pub(super) to: mpsc::Sender<Piece>,
    /// What it was told to write last is not on the disk.
    pub(super) failed: Arc<AtomicBool>,
}

/// Starts the thread.
pub(super) fn start(directory: PathBuf, metrics: SnapshotMetrics) -> io::Result<Pieces> {
    let (to, mut received) = mpsc::channel(PIECES);
    let failed = Arc::new(AtomicBool::new(false));
    let pieces = Pieces { to, failed: Arc::clone(&failed) };
    let mut disk = Disk { directory, writing: None, written: false, told: None, failed, metrics };
    std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
        while let Some(piece) = received.blocking_recv() {
            disk.take(piece);
        }
    })?;
    Ok(pieces)
}

#[derive(Debug)]
struct Disk {
    directory: PathBuf,
    writing: Option<Writing>,
    /// The last snapshot is there.
    written: bool,
    /// The failure that was told last.
    told: Option<String>,
    failed: Arc<AtomicBool>,
    metrics: SnapshotMetrics,
}

struct Writing {
    file: File,
    checksum: Context,
    size: u64,
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writing").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Disk {
    fn take(&mut self, piece: Piece) {
        let done = match piece {
            Piece::Part { octets, first, last } => self.part(&octets, first, last),
            Piece::StillRight => self.still_right(),
            Piece::Flush(done) => {
                let _ = done.send(());
                Ok(())
            }
        };
        if let Err(error) = done {
            self.failed(&error);
        }
    }

    fn part(&mut self, octets: &[u8], first: bool, last: bool) -> io::Result<()> {
        if first {
            self.begin()?;
        }
        self.append(octets)?;
        if last { self.end() } else { Ok(()) }
    }

    fn begin(&mut self) -> io::Result<()> {
        self.writing = None;
        make_directory(&self.directory)?;
        let new = new_path(&self.directory);
        // Left over by a run that was killed.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(new)?;
        self.writing = Some(Writing { file, checksum: Context::new(&SHA256), size: 0 });
        Ok(())
    }

    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        // Of a snapshot that has failed the rest is of no use.
        let Some(Writing { file, checksum, size }) = &mut self.writing else { return Ok(()) };
        *size += octets.len() as u64;
        if *size > MAX_SIZE {
            return Err(io::Error::other(format!("it would be larger than {} MiB", MAX_SIZE >> 20)));
        }
        checksum.update(octets);
        file.write_all(octets)
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(Writing { mut file, checksum, size }) = self.writing.take() else { return Ok(()) };
        file.write_all(checksum.finish().as_ref())?;
        file.sync_all()?;
        std::fs::rename(new_path(&self.directory), path(&self.directory))?;
        // The rename, too, is to outlive a loss of power.
        File::open(&self.directory)?.sync_all()?;
        if self.told.take().is_some() || !self.written {
            let path = path(&self.directory);
            tracing::info!(path = %path.display(), size, "a snapshot is kept, for starts without the API server");
        }
        self.written = true;
        self.failed.store(false, Ordering::Relaxed);
        self.metrics.size.set(i64::try_from(size).unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.metrics.written.set(i64::try_from(now).unwrap_or(i64::MAX));
        Ok(())
    }

    fn still_right(&self) -> io::Result<()> {
        if self.written {
            let file = OpenOptions::new().write(true).open(path(&self.directory))?;
            file.set_modified(SystemTime::now())?;
        }
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) {
        if self.writing.take().is_some() {
            let _ = std::fs::remove_file(new_path(&self.directory));
        }
        self.failed.store(true, Ordering::Relaxed);
        self.metrics.failures.inc();
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            tracing::warn!(
                directory = %self.directory.display(), error = text,
                "no snapshot can be kept, so a start without the API server would announce nothing: make the directory \
                 writable, or name another one with --state-directory (empty: none)"
            );
            self.told = Some(text);
        }
    }
}

fn new_path(directory: &Path) -> PathBuf {
    path(directory).with_extension("snapshot.new")
}

/// Makes the state directory, for root alone, if it is not there.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)
}

/// Removes what is kept in the state directory, and the directory if nothing else is in it. Returns how many files there were.
pub(crate) fn remove(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for file in [path(directory), new_path(directory)] {
        match std::fs::remove_file(file) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // In a container it is a mount, and others may have put something there.
    let _ = std::fs::remove_dir(directory);
    Ok(removed)
}

/// Reads the snapshot in a directory; with it, how long ago it was right for the last time.
pub(super) fn read(
    directory: &Path,
    identity: &Identity,
    now: SystemTime,
) -> Result<(Remembered, Duration), Unusable> {
    let path = path(directory);
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Unusable::Missing,
        _ => error.into(),
    })?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.mode() & 0o022 != 0 || meta.uid() != std::fs::metadata("/proc/self")?.uid() {
        return Err(Unusable::NotOurs);
    }
    // A clock that was set back makes nothing old.
    let age = now.duration_since(meta.modified()?).unwrap_or_default();
    if age > MAX_AGE {
        return Err(Unusable::TooOld(age.as_secs() / 3600));
    }
    let mut octets = Vec::new();
    let limit = MAX_SIZE + u64::from(u8::MAX);
    file.take(limit + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > limit {
        return Err(Unusable::TooLarge);
    }
    Ok((image::read(&octets, identity)?, age))
}
