//! A bar on the terminal for what takes long.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// What is done sooner needs none.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes that are done, of all. The bar is gone again when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Where it is shown, until it is.
    target: Option<ProgressDrawTarget>,
    begun: Instant,
    patience: Duration,
}

impl Progress {
    /// On standard error, if somebody watches it.
    pub(crate) fn new(what: &'static str, is_watched: bool) -> Self {
        let target = match is_watched {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Self::with(what, target, PATIENCE)
    }

    fn with(what: &'static str, target: ProgressDrawTarget, patience: Duration) -> Self {
        // Nothing is drawn but from here: there is no thread.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_message(what);
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}");
        Self {
            bar: match style {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            },
            target: Some(target),
            begun: Instant::now(),
            patience,
        }
    }

    pub(crate) fn tell(&mut self, done: u64, total: u64) {
        if self.begun.elapsed() >= self.patience
            && let Some(target) = self.target.take()
        {
            self.bar.set_draw_target(target);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_long_has_a_bar() {
        let progress = |patience| Progress::with("x", ProgressDrawTarget::hidden(), patience);
        let mut quick = progress(Duration::MAX);
        quick.tell(1, 2);
        assert!(quick.target.is_some(), "it is not shown");
        let mut slow = progress(Duration::ZERO);
        slow.tell(3 << 20, 4 << 20);
        assert!(slow.target.is_none(), "it is shown");
        assert_eq!((slow.bar.position(), slow.bar.length()), (3 << 20, Some(4 << 20)));
    }
}
