//! A server's process: it ends with us, and the kernel's clock and counters say what it costs.
#![expect(unsafe_code, reason = "a process's CPU clock has no safe wrapper")]

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// How long a server may take to start, and to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server, ended when this is dropped, or when this program dies.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts a program; what it says goes to `log`.
    pub(crate) fn start(name: &'static str, program: &Path, args: &[&str], log: &Path) -> Result<Self> {
        let log = fs::File::create(log)?;
        // A guard does not run when we are killed; the kernel's signal at a parent's death does.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name })
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks `ready` until it answers.
    pub(crate) fn wait_for<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(it) = ready() {
                return Ok(it);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended while it started: {status}", self.name);
            }
            ensure!(Instant::now() < deadline, "{} did not start within {PATIENCE:?}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CPU time that a process has used, user and system, in all of its threads, those that ended too.
///
/// The clock counts nanoseconds; the fields of `/proc/PID/stat` count ticks of 10 ms, which is a tenth of what some
/// rows cost.
pub(crate) fn cpu_of(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: `clock` is a valid place for the id, and lives through the call.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    read(clock)
}

/// The CPU time that the calling thread has used.
pub(crate) fn own_cpu() -> io::Result<Duration> {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is a valid place for a timespec, and lives through the call.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled `time`.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Forgets the peak of a process's memory, so that [`peak_memory`] tells the peak since now.
pub(crate) fn forget_peak_memory(pid: u32) -> io::Result<()> {
    // proc_pid_clear_refs(5): 5 resets the peak, VmHWM.
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// The most memory that a process held, in bytes.
pub(crate) fn peak_memory(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// The memory that a process holds now, in bytes.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field in /proc/PID/status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}
