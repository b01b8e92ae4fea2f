//! The terminal while a guest has it: what is typed goes to the guest at once and as it is, but for one key.

use rustix::process::getpgrp;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp,
    tcsetattr,
};
use std::io::{self, Stdin};

/// Ctrl-], which ends the guest.
const ESCAPE: u8 = 0x1D;
/// No key does this.
const NONE: u8 = 0;

/// Gives the terminal back as it was when it is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    /// Gives the terminal to the guest; `None` where standard input is none.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        tcsetattr(&stdin, OptionalActions::Now, &raw(&before))?;
        Ok(Some(Self { stdin, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // After what the guest has said last. A terminal that is gone needs nothing any more.
        let _is_gone = tcsetattr(&self.stdin, OptionalActions::Drain, &self.before).is_err();
    }
}

/// Whether standard input is this program's to read and to set: a program in the background that touches the terminal is stopped, with all that it has open.
pub(super) fn is_ours() -> bool {
    let stdin = io::stdin();
    !isatty(&stdin) || tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp())
}

fn raw(before: &Termios) -> Termios {
    let mut raw = before.clone();
    raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
    raw.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IGNCR;
    raw.input_modes -= InputModes::IXON | InputModes::IXOFF | InputModes::BRKINT;
    // All eight bits, and nothing put among them.
    raw.input_modes -= InputModes::ISTRIP | InputModes::PARMRK | InputModes::INPCK;
    raw.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
    raw.control_modes |= ControlModes::CS8;
    // The terminal itself makes SIGINT of the one key, as it does of Ctrl-C else.
    raw.local_modes |= LocalModes::ISIG;
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
        tcsetattr(&terminal, OptionalActions::Now, &raw(&before)).unwrap();
        let set = tcgetattr(&terminal).unwrap();
        assert_eq!(set.control_modes & ControlModes::CSIZE, ControlModes::CS8);
        let changing = InputModes::ISTRIP | InputModes::IXON | InputModes::PARMRK | InputModes::ICRNL;
        assert!(!set.input_modes.intersects(changing), "{:?}", set.input_modes);
        assert!(!set.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO));
        assert_eq!(set.special_codes[SpecialCodeIndex::VINTR], ESCAPE);
        assert_eq!(set.special_codes[SpecialCodeIndex::VSUSP], NONE);
    }
}
