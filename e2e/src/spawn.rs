//! Starts processes inside namespaces. The crate's only unsafe code: what happens between fork and exec.
//!
//! All processes are forked by one thread that lives as long as this process. Two reasons: a child inherits the network
//! namespace of the thread that forks it, so that thread moves into the wanted one first and no test thread ever has to;
//! and the parent-death signal is sent when the *thread* that forked ends, not the process.
#![allow(unsafe_code, reason = "pre_exec is unsafe: it runs between fork and exec")]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid, setsid};

/// How long a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Killed by the kernel when this process ends, however it ends.
    Owner,
    /// A session of its own; stays when this process ends.
    Detached,
}

struct Job {
    command: Command,
    namespace: Option<PathBuf>,
    reply: SyncSender<io::Result<Child>>,
}

static FORKER: OnceLock<SyncSender<Job>> = OnceLock::new();

/// Starts `command` in the namespace at this path; `None` is the one that this process was started in.
pub(crate) fn spawn(
    mut command: Command,
    namespace: Option<PathBuf>,
    lifetime: Lifetime,
) -> io::Result<Child> {
    let parent = Pid::this();
    match lifetime {
        Lifetime::Owner => {
            // SAFETY: prctl, getppid and the construction of an io::Error from a number are async-signal-safe and
            // allocate nothing.
            unsafe {
                command.pre_exec(move || {
                    set_pdeathsig(Signal::SIGKILL)?;
                    // The parent may have died before the signal was asked for.
                    if getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
                });
            }
        }
        Lifetime::Detached => {
            // SAFETY: setsid is async-signal-safe and allocates nothing.
            unsafe {
                command.pre_exec(|| setsid().map(drop).map_err(io::Error::from));
            }
        }
    }
    let (reply, answer) = sync_channel(1);
    let gone = || io::Error::other("the forking thread has ended");
    FORKER.get_or_init(start).send(Job { command, namespace, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn enter(namespace: &Path) -> io::Result<()> {
    setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

fn start() -> SyncSender<Job> {
    // Depth 16: senders wait for the answer anyway.
    let (sender, jobs) = sync_channel::<Job>(16);
    std::thread::spawn(move || {
        // The main thread never moves, so its namespace is the one we came from.
        let home = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
        for mut job in jobs {
            let child = enter(job.namespace.as_ref().unwrap_or(&home)).and_then(|()| job.command.spawn());
            // A namespace lives as long as a thread is in it, and this one may be deleted before the next job comes.
            let back = enter(&home);
            // Whoever asked may have gone; the child is then ended by the registry.
            let _ = job.reply.send(back.and(child));
        }
    });
    sender
}
