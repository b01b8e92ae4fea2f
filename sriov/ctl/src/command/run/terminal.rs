//! The terminal while a guest has it: what is typed goes to the guest at once and as it is, but for one key.

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr,
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
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IGNCR | InputModes::IXON;
        // The terminal itself makes SIGINT of the one key, as it does of Ctrl-C else.
        raw.special_codes[SpecialCodeIndex::VINTR] = ESCAPE;
        for index in [SpecialCodeIndex::VQUIT, SpecialCodeIndex::VSUSP] {
            raw.special_codes[index] = NONE;
        }
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { stdin, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _is_gone = tcsetattr(&self.stdin, OptionalActions::Now, &self.before).is_err();
    }
}
