//! Faults: what goes wrong, and when.

use super::chance::Chance;
use super::command::Status;
use iommu::Iova;

/// What goes wrong with a controller, or with a command of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails: CSTS.CFS, and commands are not looked for any more. What it has begun it may still end.
    Fatal,
    /// From the next time it is enabled on it does not become ready.
    NeverReady,
    /// From now on it stays ready when it is disabled, and ends what it has begun, until the function is reset.
    NeverStops,
    /// Its shutdown does not end.
    NeverShutDown,
    /// From now on it takes no address for its memory buffer (CMBSTS.CBAI), until the function is reset; one that it has taken stays.
    NeverTakesBuffer,
    /// All registers read as ones for so many pokes, and nothing is done; then it is as after a reset. `None` is for ever.
    AllOnes(Option<u64>),
    /// The completion has the identifier of no command.
    UnknownId,
    /// The completion comes twice.
    Duplicate,
    /// The completion has the phase of the pass before: nobody sees it.
    StalePhase,
    /// The completion's second half, which has the phase, is written before its first, which follows a poke later. Against the specification.
    PhaseFirst,
    /// The completion's first half is written a poke before its second, which has the phase. As the specification allows.
    InParts,
    /// The completion names another submission queue.
    WrongQueue,
    /// The completion's head pointer lies outside the submission queue.
    WrongHead,
    /// The command is forgotten: there is no completion, and an Abort does not find it.
    Lost,
    /// The command does not end by itself: an Abort ends it.
    Stuck,
    /// The command takes so many pokes more.
    Slow(u64),
    /// The command is not done and ends so.
    Status(Status),
    /// What the command reads is replaced by random bytes.
    Garbage,
    /// Page `n` of the command's data, counted from 0, or the last one, is looked for at an address that nothing is mapped at.
    WrongPage(usize),
}

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// With the next poke; of a fault that is of a command, with the next command.
    Now,
    /// With the next admin command of this opcode.
    Admin(u8),
    /// With the next I/O command of this opcode.
    Io(u8),
    /// With an admin command; 0 is the next one.
    NthAdmin(u32),
    /// With an I/O command; 0 is the next one.
    NthIo(u32),
}

/// Faults that are to come.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<Rule>,
    chaos: Option<(Chance, u32)>,
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
    again: bool,
}

impl Script {
    pub(super) fn add(&mut self, when: When, fault: Fault, again: bool) {
        self.rules.push(Rule { when, fault, again });
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn chaos(&mut self, seed: u64, permille: u32) {
        self.chaos = Some((Chance::new(seed), permille));
    }

    /// The faults of the controller itself that are due.
    pub(super) fn now(&mut self) -> Vec<Fault> {
        let is_due = |rule: &mut Rule| rule.when == When::Now && rule.fault.is_of_controller();
        self.rules.extract_if(.., is_due).map(|rule| rule.fault).collect()
    }

    /// The fault of a command that was fetched.
    pub(super) fn command(&mut self, is_admin: bool, opcode: u8) -> Option<Fault> {
        let mut due = None;
        for (at, rule) in self.rules.iter_mut().enumerate() {
            let is_due = match &mut rule.when {
                When::Now => true,
                When::Admin(of) => is_admin && *of == opcode,
                When::Io(of) => !is_admin && *of == opcode,
                When::NthAdmin(left) => is_admin && count_down(left),
                When::NthIo(left) => !is_admin && count_down(left),
            };
            if is_due && due.is_none() {
                due = Some((at, rule.fault, rule.again));
            }
        }
        match due {
            Some((at, fault, again)) => {
                if !again {
                    self.rules.remove(at);
                }
                Some(fault)
            }
            None => self.random(),
        }
    }

    fn random(&mut self) -> Option<Fault> {
        let (chance, permille) = self.chaos.as_mut()?;
        if chance.below(1000) >= u64::from(*permille) {
            return None;
        }
        Some(Fault::random(chance))
    }
}

/// Whether it is this one's turn.
fn count_down(left: &mut u32) -> bool {
    let is_due = *left == 0;
    *left = left.saturating_sub(1);
    is_due
}

impl Fault {
    /// Where [`WrongPage`](Self::WrongPage) looks for a page: nothing is ever mapped so high.
    pub const NOWHERE: Iova = Iova(0xffff_ffff_ff00_0000);

    /// Any fault of all.
    pub(super) fn random(chance: &mut Chance) -> Self {
        match chance.below(21) {
            0 => Self::Fatal,
            1 => Self::NeverReady,
            2 => Self::NeverStops,
            3 => Self::AllOnes(Some(chance.below(100))),
            4 => Self::UnknownId,
            5 => Self::Duplicate,
            6 => Self::StalePhase,
            7 => Self::PhaseFirst,
            8 => Self::InParts,
            9 => Self::WrongQueue,
            10 => Self::WrongHead,
            11 => Self::Lost,
            12 => Self::Stuck,
            13 => Self::Slow(chance.below(1000)),
            14 | 15 => Self::Status(Status(super::bytes::low16(super::bytes::low32(chance.next())) & 0x7fff)),
            16 | 17 => Self::Garbage,
            18 => Self::WrongPage(super::bytes::size(chance.below(16))),
            19 => Self::NeverTakesBuffer,
            _ => Self::NeverShutDown,
        }
    }

    /// Whether it does not depend on a command.
    pub(super) fn is_of_controller(self) -> bool {
        matches!(
            self,
            Self::Fatal
                | Self::NeverReady
                | Self::NeverStops
                | Self::NeverShutDown
                | Self::NeverTakesBuffer
                | Self::AllOnes(_)
        )
    }
}
