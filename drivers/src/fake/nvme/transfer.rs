//! A command's data on its way, and what can go wrong there.

use super::bytes::size;
use super::chance::Chance;
use super::command::{Command, Status};
use super::fault::Fault;
use super::host::{Host, Piece};

/// What a command's data is subject to.
pub(super) struct Transfer<'a, 'b> {
    pub(super) host: &'a Host<'b>,
    pub(super) command: &'a Command,
    pub(super) fault: Option<Fault>,
}

impl Transfer<'_, '_> {
    /// Gives the command its answer: `from`, or garbage if that is the fault.
    pub(super) fn answer(&self, from: &[u8], chance: &mut Chance) -> Result<(), Status> {
        let mut pieces = self.host.data(self.command, from.len() as u64)?;
        self.mislead(&mut pieces);
        if self.fault == Some(Fault::Garbage) {
            let mut garbage = vec![0; from.len()];
            chance.fill(&mut garbage);
            return self.host.scatter(&pieces, &garbage);
        }
        self.host.scatter(&pieces, from)
    }

    /// Takes `len` bytes that the command brings.
    pub(super) fn bring(&self, len: u64) -> Result<Vec<u8>, Status> {
        let mut pieces = self.host.data(self.command, len)?;
        self.mislead(&mut pieces);
        let mut bytes = vec![0; size(len)];
        self.host.gather(&pieces, &mut bytes)?;
        Ok(bytes)
    }

    fn mislead(&self, pieces: &mut [Piece]) {
        if let Some(Fault::WrongPage(page)) = self.fault {
            let last = pieces.len().saturating_sub(1);
            if let Some(piece) = pieces.get_mut(page.min(last)) {
                piece.at = Some(Fault::NOWHERE.0);
            }
        }
    }
}
