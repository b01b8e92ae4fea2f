//! Instructions of the whole machine, interrupts and all, on a clock that counts them.
//!
//! A thread that runs when nothing else does counts its turns. What of the time its turns do not explain was spent on something else.

use anyhow::{Result, ensure};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use system_tests::machine::run;

/// Measures as long as it is there. Dropping it ends its thread.
#[derive(Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Nanoseconds of a turn.
    turn: f64,
}

#[derive(Debug, Default)]
struct Shared {
    turns: AtomicU64,
    is_over: AtomicBool,
    /// The thread's number; 0 before it runs.
    thread: AtomicU64,
}

/// How long nothing is done to see what a turn takes.
const CALIBRATION: Duration = Duration::from_millis(300);
/// How long the thread may take to begin, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

impl Shared {
    /// The thread's number, once it has begun: 0 would be the program itself.
    fn number(&self) -> Result<u64> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match self.thread.load(Ordering::Relaxed) {
                0 => pause(Duration::from_millis(10)),
                number => return Ok(number),
            }
        }
        anyhow::bail!("its thread does not begin in {} s", PATIENCE.as_secs())
    }
}

impl Meter {
    /// Starts the thread, and learns what a turn of it takes. Nothing else may run meanwhile.
    ///
    /// # Errors
    /// When `chrt` of util-linux is not there or fails.
    pub fn new() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let number = rustix::thread::gettid().as_raw_nonzero().get();
            of_thread.thread.store(number.unsigned_abs().into(), Ordering::Relaxed);
            while !of_thread.is_over.load(Ordering::Relaxed) {
                of_thread.turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut meter = Self {
            shared,
            thread: Some(thread),
            turn: 0.0,
        };
        let number = meter.shared.number()?.to_string();
        let ran = run(Command::new("chrt").args(["--idle", "--pid", "0", &number]))?;
        ensure!(ran.code == 0, "chrt: {}", ran.stderr);
        let (time, turns) = meter.watch(|| pause(CALIBRATION));
        meter.turn = time / turns;
        Ok(meter)
    }

    /// Instructions that something takes.
    ///
    /// # Errors
    /// Those of `what`.
    pub fn measure<T>(&self, what: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
        let mut result = None;
        let (time, turns) = self.watch(|| result = Some(what()));
        let value = result.unwrap_or_else(|| anyhow::bail!("nothing was measured"))?;
        Ok((time - turns * self.turn, value))
    }

    /// Nanoseconds, and the turns in them.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
    fn watch(&self, what: impl FnOnce()) -> (f64, f64) {
        let (turns, begin) = (self.shared.turns.load(Ordering::Relaxed), Instant::now());
        what();
        let time = begin.elapsed();
        let turns = self.shared.turns.load(Ordering::Relaxed) - turns;
        (time.as_nanos() as f64, turns as f64)
    }
}

/// At least so long nothing is done here.
fn pause(time: Duration) {
    let begin = Instant::now();
    while let Some(left) = time.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
