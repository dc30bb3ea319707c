//! A time of day of its own for one process: what a clock that is set does to it, while the machine's and everybody else's is as it was.
//!
//! Programs read clocks by a function that the kernel maps into each process (vdso(7)). In that one process it is replaced here, by way of
//! `/proc/<pid>/mem`: the new one makes the system call, and adds to the time of day a number that stands beside it and may be changed at
//! any time. Monotonic clocks stay true, as they do when a clock is set. How the program is linked is all the same.
//! What the kernel itself dates, such as datagrams on their arrival, is dated by the machine's clock.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::await_until::await_ok;
use crate::process::Process;

/// For a process to stand still.
const STILL: Duration = Duration::from_secs(5);
/// At the end of the mapping, where there is nothing: the code, and in its last eight octets the seconds.
const ROOM: usize = 64;
/// `clock_gettime(clock, time)` for x86-64, without the place of the seconds at its [`HOLE`].
const CODE: [u8; 31] = [
    0xb8, 0xe4, 0, 0, 0, // mov eax, 228 (the system call's number)
    0x0f, 0x05, // syscall
    0x85, 0xc0, 0x75, 0x13, // test eax, eax; jne to ret
    0x85, 0xff, 0x74, 0x05, // test edi, edi (CLOCK_REALTIME); je to mov
    0x83, 0xff, 0x05, 0x75, 0x0a, // cmp edi, 5 (CLOCK_REALTIME_COARSE); jne to ret
    0x48, 0x8b, 0x0d, 0, 0, 0, 0, // mov rcx, the seconds
    0x48, 0x01, 0x0e, // add [rsi], rcx
    0xc3, // ret
];
const HOLE: Range<usize> = 23..27;

/// The time of day of one process.
#[derive(Debug)]
pub struct Clock {
    memory: File,
    /// Where the seconds are.
    seconds: u64,
}

impl Clock {
    /// Of a process that runs; it shows the machine's time until it is set. The process stands still for some milliseconds.
    pub fn of(process: &Process) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "written for x86-64 alone: see CODE");
        let done = Self::replace(process);
        process.thaw();
        done.with_context(|| format!("a clock for {}", process.name()))
    }

    /// Sets it so many seconds ahead of the machine's; negative: behind.
    pub fn set(&self, ahead: i64) -> Result<()> {
        self.memory.write_all_at(&ahead.to_le_bytes(), self.seconds).context("it has ended")
    }

    fn replace(process: &Process) -> Result<Self> {
        let pid = process.pid();
        let vdso = vdso(&fs::read_to_string(format!("/proc/{pid}/maps"))?).context("it has no vDSO")?;
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let mut image = vec![0; usize::try_from(vdso.end - vdso.start)?];
        memory.read_exact_at(&mut image, vdso.start)?;
        let entry = symbol(&image, b"__vdso_clock_gettime\0").context("its vDSO reads no clock")?;
        let room = image.len() - ROOM;
        ensure!(image[room..].iter().all(|octet| *octet == 0), "its vDSO has no room");

        // No thread may be in what changes.
        await_ok(STILL, "its threads to stand still outside of the vDSO", || {
            process.freeze();
            if counters(pid)?.iter().any(|counter| vdso.contains(counter)) {
                process.thaw();
                bail!("one reads a clock");
            }
            Ok(())
        })?;
        let far = |end: usize, to: usize| Ok::<_, anyhow::Error>(i32::try_from(to)? - i32::try_from(end)?);
        let seconds = image.len() - 8;
        let mut code = CODE;
        code[HOLE].copy_from_slice(&far(room + HOLE.end, seconds)?.to_le_bytes());
        memory.write_all_at(&code, vdso.start + u64::try_from(room)?)?;
        // jmp
        let [a, b, c, d] = far(entry + 5, room)?.to_le_bytes();
        memory.write_all_at(&[0xe9, a, b, c, d], vdso.start + u64::try_from(entry)?)?;
        Ok(Self { memory, seconds: vdso.start + u64::try_from(seconds)? })
    }
}

/// Where `/proc/<pid>/maps` has it.
fn vdso(maps: &str) -> Option<Range<u64>> {
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// The program counters of the threads of a process that is stopped; fails while one still runs.
fn counters(pid: i32) -> Result<Vec<u64>> {
    let mut counters = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let stat = fs::read_to_string(thread.join("stat"))?;
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        ensure!(state == Some('T'), "one runs: {stat}");
        let at = fs::read_to_string(thread.join("syscall"))?;
        let counter = at.split_whitespace().last().and_then(|word| word.strip_prefix("0x"));
        counters.push(u64::from_str_radix(counter.with_context(|| at.clone())?, 16)?);
    }
    Ok(counters)
}

/// The offset of a symbol in an ELF image of 64 bits whose addresses are its offsets. `name` ends with a zero.
fn symbol(image: &[u8], name: &[u8]) -> Option<usize> {
    let octets = |at: usize| image.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let long = |at: usize| usize::try_from(octets(at)?).ok();
    let short = |at: usize| Some(usize::from(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?)));
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let (table, size, number) = (long(32)?, short(54)?, short(56)?);
    let dynamic = (0..number).map(|n| table + n * size).find(|at| word(*at) == Some(2))?;
    let dynamic = long(dynamic + 16)?;
    let entries = (0..).map(|n| dynamic + n * 16).map_while(|at| Some((long(at)?, long(at + 8)?)));
    let entries: Vec<_> = entries.take_while(|(tag, _)| *tag != 0).collect();
    let of = |wanted: usize| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    // DT_STRTAB, and DT_SYMTAB that stands before it.
    let (names, symbols) = (of(5)?, of(6)?);
    let is = |at: &usize| {
        let named = word(*at).and_then(|offset| image.get(names + usize::try_from(offset).ok()?..));
        named.is_some_and(|text| text.starts_with(name))
    };
    long((symbols..names).step_by(24).find(is)? + 8)
}
