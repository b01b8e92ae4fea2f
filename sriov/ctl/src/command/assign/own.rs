//! A guest of `sriovctl run`, over its control socket.

use super::{Gift, Given, REFUSED, Step, Vmm, failing, is_refused, open};
use crate::failure::Failure;
use pci::Bdf;
use rustix::net::sockopt::socket_peercred;
use serde::Serialize;
use sriov::Backend;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vmm_glue::ErrorKind;
use vmm_glue::control::{Add, Assigned, Client, Failed, Interface, Remove, Reply, Request};

/// How much earlier than here the machine gives up, so that its reason is heard.
const MARGIN: Duration = Duration::from_millis(500);

/// A machine of ours.
#[derive(Debug)]
pub(super) struct Own {
    socket: PathBuf,
    deadline: Instant,
    client: Option<Client>,
    is_told: bool,
}

impl Own {
    pub(super) fn new(socket: PathBuf, deadline: Instant) -> Self {
        Self {
            socket,
            deadline,
            client: None,
            is_told: false,
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.socket).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &vmm_glue::Error) -> Failure {
        let (kind, fix) = match &error.kind {
            ErrorKind::TimedOut => (
                "timed_out",
                "see that the guest runs, then ask again, with a longer --timeout",
            ),
            ErrorKind::Malformed(_) => (
                "malformed",
                "name the socket of sriovctl run --control, of this version",
            ),
            _ => (
                "connection",
                "see that the guest was started with sriovctl run --control PATH and still runs",
            ),
        };
        let step = format!("ask {}", self.socket.display());
        failing(kind, error.to_string()).step(step).fix(fix)
    }

    fn ask(&mut self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Reply, Failure> {
        let left = self.left();
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect()?,
        };
        let reply = client.ask(request, files, left).map_err(|error| self.failed(&error))?;
        self.client = Some(client);
        match reply {
            Reply::Failed(failed) => Err(refused(failed)),
            reply => Ok(reply),
        }
    }

    fn functions(&mut self) -> Result<Vec<Assigned>, Failure> {
        match self.ask(&Request::List, &[])? {
            Reply::Functions(functions) => Ok(functions),
            other => Err(strange(&other)),
        }
    }

    fn find(&mut self, bdf: Bdf) -> Result<Option<Assigned>, Failure> {
        let functions = self.functions()?;
        Ok(functions.into_iter().find(|function| function.device == bdf))
    }
}

fn strange(reply: &Reply) -> Failure {
    failing("malformed", format!("the guest answers something else: {reply:?}"))
}

fn refused(failed: Failed) -> Failure {
    let kind = if failed.timed_out { "timed_out" } else { REFUSED };
    let mut failure = failing(kind, failed.message).step(failed.step);
    failure.device = failed.device;
    match failed.fix {
        Some(fix) => failure.fix(fix),
        None => failure,
    }
}

fn interface(backend: Backend) -> Interface {
    match backend {
        Backend::Type1 => Interface::Type1,
        Backend::Iommufd => Interface::Iommufd,
    }
}

fn add(gift: &Gift) -> Request {
    Request::Add(Add {
        device: gift.bdf,
        interface: interface(gift.backend),
        group: (gift.backend == Backend::Type1).then_some(gift.group.0),
        token: gift.token,
    })
}

fn node(gift: &Gift) -> String {
    match gift.backend {
        Backend::Type1 => format!("/dev/vfio/{}", gift.group.0),
        Backend::Iommufd => gift.node.clone(),
    }
}

fn text(request: &impl Serialize) -> String {
    // Structures of strings and numbers cannot fail.
    serde_json::to_string(request).unwrap_or_default()
}

impl Vmm for Own {
    fn peer(&mut self) -> Result<Option<u32>, Failure> {
        // The kernel's word: a guest may have taken its process over. And no connection stands while the machine is looked at, which may take longer than
        // the guest has patience with who says nothing.
        let client = self.connect()?;
        let peer = socket_peercred(&client).ok();
        Ok(peer.and_then(|peer| u32::try_from(peer.pid.as_raw_pid()).ok()))
    }

    fn steps(&self, gift: &Gift) -> Vec<Step> {
        vec![Step {
            request: text(&add(gift)),
            with: Some(node(gift)),
        }]
    }

    fn removal_steps(&self, bdf: Bdf) -> Vec<Step> {
        vec![Step {
            request: text(&self.removal(bdf)),
            with: None,
        }]
    }

    fn assign(&mut self, gift: &Gift) -> Result<Given, Failure> {
        let functions = self.functions()?;
        if functions.iter().any(|function| function.device == gift.bdf) {
            return Err(failing("assigned", "this guest has it already").step("list"));
        }
        // A group opens once, and the machine has it from its first function on.
        let is_sibling = |function: &Assigned| gift.siblings.contains(&function.device);
        let has_group = gift.backend == Backend::Type1 && functions.iter().any(is_sibling);
        let file = match has_group {
            true => None,
            false => Some(open(&node(gift))?),
        };
        let files: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
        self.is_told = true;
        let added = self.ask(&add(gift), &files);
        self.is_told = !is_refused(&added);
        match added? {
            Reply::Added(_) => {}
            other => return Err(strange(&other)),
        }
        let Some(assigned) = self.find(gift.bdf)? else {
            let message = "the guest has accepted the function, and does not list it";
            return Err(failing("read_back", message).step("list"));
        };
        Ok(Given {
            id: None,
            backend: Some(match assigned.interface {
                Interface::Type1 => Backend::Type1,
                Interface::Iommufd => Backend::Iommufd,
            }),
            address: Some(assigned.address.to_string()),
        })
    }

    fn is_told(&self) -> bool {
        self.is_told
    }

    fn has(&mut self, bdf: Bdf) -> Result<bool, Failure> {
        Ok(self.find(bdf)?.is_some())
    }

    fn unassign(&mut self, bdf: Bdf) -> Result<(), Failure> {
        if self.find(bdf)?.is_none() {
            return Err(failing("not_assigned", "this guest does not have it").step("list"));
        }
        let removal = self.removal(bdf);
        match self.ask(&removal, &[])? {
            Reply::Removed => {}
            other => return Err(strange(&other)),
        }
        match self.find(bdf)? {
            None => Ok(()),
            Some(_) => {
                let message = "the guest has let go of the function, and still lists it";
                Err(failing("read_back", message).step("list"))
            }
        }
    }
}

impl Own {
    fn removal(&self, bdf: Bdf) -> Request {
        let timeout = self.left().saturating_sub(MARGIN);
        Request::Remove(Remove {
            device: bdf,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
