//! The terminal while a guest has it: what is typed goes to the guest at once and as it is, but for one key.

use rustix::io::Errno;
use rustix::process::{Pid, getpgrp};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp,
    tcsetattr,
};
use std::io::{self, Stdin};

/// Ctrl-], which ends the guest.
const ESCAPE: u8 = 0x1D;
/// No key does this.
const NONE: u8 = 0;

/// What standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// No terminal.
    Plain,
    /// The terminal of this program's session, which has it in the foreground: keys make signals.
    Controlling,
    /// A terminal, not that of this program's session: no key makes a signal, and nobody is stopped for touching it.
    Detached,
    /// The terminal of this program's session, which has another program in the foreground: who touches it is stopped, with all that it has open.
    Background,
}

impl Input {
    pub(super) fn new() -> Self {
        let stdin = io::stdin();
        match isatty(&stdin) {
            false => Self::Plain,
            true => Self::of_terminal(tcgetpgrp(&stdin), getpgrp()),
        }
    }

    fn of_terminal(foreground: Result<Pid, Errno>, ours: Pid) -> Self {
        match foreground {
            Ok(group) if group == ours => Self::Controlling,
            Err(Errno::NOTTY) => Self::Detached,
            // Also where nobody says.
            _ => Self::Background,
        }
    }
}

/// Gives the terminal back as it was when it is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    /// Gives the terminal to the guest, where standard input is one to give.
    pub(super) fn enter(input: Input) -> io::Result<Option<Self>> {
        let is_controlling = match input {
            Input::Plain | Input::Background => return Ok(None),
            Input::Controlling => true,
            Input::Detached => false,
        };
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        tcsetattr(&stdin, OptionalActions::Now, &raw(&before, is_controlling))?;
        Ok(Some(Self { stdin, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // After what the guest has said last. A terminal that is gone needs nothing any more.
        let _is_gone = tcsetattr(&self.stdin, OptionalActions::Drain, &self.before).is_err();
    }
}

fn raw(before: &Termios, has_escape: bool) -> Termios {
    let mut raw = before.clone();
    raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
    raw.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IGNCR;
    raw.input_modes -= InputModes::IXON | InputModes::IXOFF | InputModes::BRKINT;
    // All eight bits, and nothing put among them.
    raw.input_modes -= InputModes::ISTRIP | InputModes::PARMRK | InputModes::INPCK;
    raw.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
    raw.control_modes |= ControlModes::CS8;
    // The terminal itself makes SIGINT of the one key, as it does of Ctrl-C else; but for another session than its own it makes none.
    raw.local_modes.set(LocalModes::ISIG, has_escape);
    raw.special_codes[SpecialCodeIndex::VINTR] = ESCAPE;
    for index in [SpecialCodeIndex::VQUIT, SpecialCodeIndex::VSUSP] {
        raw.special_codes[index] = NONE;
    }
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    raw
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_typed_goes_to_the_guest_with_all_its_bits_but_for_one_key() {
        let terminal = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        let mut before = tcgetattr(&terminal).unwrap();
        // As an old terminal, of seven bits and with a key against floods.
        before.input_modes |= InputModes::ISTRIP | InputModes::IXON | InputModes::PARMRK;
        before.control_modes -= ControlModes::CSIZE;
        before.control_modes |= ControlModes::CS7;
        tcsetattr(&terminal, OptionalActions::Now, &raw(&before, true)).unwrap();
        let set = tcgetattr(&terminal).unwrap();
        assert_eq!(set.control_modes & ControlModes::CSIZE, ControlModes::CS8);
        let changing = InputModes::ISTRIP | InputModes::IXON | InputModes::PARMRK | InputModes::ICRNL;
        assert!(!set.input_modes.intersects(changing), "{:?}", set.input_modes);
        assert!(!set.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO));
        assert_eq!(set.special_codes[SpecialCodeIndex::VINTR], ESCAPE);
        assert_eq!(set.special_codes[SpecialCodeIndex::VSUSP], NONE);
        assert!(set.local_modes.contains(LocalModes::ISIG));
        tcsetattr(&terminal, OptionalActions::Now, &raw(&before, false)).unwrap();
        assert!(!tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ISIG));
    }

    #[test]
    fn a_terminal_of_no_session_of_ours_is_read_and_one_that_another_program_has_is_not() {
        let ours = getpgrp();
        assert_eq!(Input::of_terminal(Err(Errno::NOTTY), ours), Input::Detached);
        assert_eq!(Input::of_terminal(Ok(ours), ours), Input::Controlling);
        assert_eq!(Input::of_terminal(Ok(Pid::INIT), ours), Input::Background);
        assert_eq!(Input::of_terminal(Err(Errno::IO), ours), Input::Background);
    }
}
