//! A guest of `sriovctl run`, over its control socket.

use super::{Gift, Given, Other, REFUSED, Step, Vmm, failing, is_refused, open};
use crate::failure::Failure;
use pci::Bdf;
use rustix::net::sockopt::socket_peercred;
use serde::Serialize;
use sriov::Backend;
use std::fs::File;
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

/// What is asked for functions of one slot; `has_file` says of each whether its descriptor goes along.
fn add(gifts: &[Gift], has_file: impl Fn(&Gift) -> bool) -> Request {
    let add = |gift: &Gift| Add {
        device: gift.bdf,
        interface: interface(gift.backend),
        group: (gift.backend == Backend::Type1 && has_file(gift)).then_some(gift.group.0),
        token: gift.token,
    };
    match gifts {
        [gift] => Request::Add(add(gift)),
        gifts => Request::AddSlot(gifts.iter().map(add).collect()),
    }
}

/// Whether a function is the first of its group among these: a group opens once.
fn is_first_of_group(gift: &Gift, gifts: &[Gift]) -> bool {
    let first = gifts.iter().find(|other| other.group == gift.group);
    gift.backend == Backend::Iommufd || first.is_some_and(|first| first.bdf == gift.bdf)
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
        self.slot_steps(std::slice::from_ref(gift))
    }

    fn slot_steps(&self, gifts: &[Gift]) -> Vec<Step> {
        let brings = |gift: &Gift| is_first_of_group(gift, gifts);
        let nodes: Vec<String> = gifts.iter().filter(|gift| brings(gift)).map(node).collect();
        vec![Step {
            request: text(&add(gifts, brings)),
            with: Some(nodes.join(", ")),
        }]
    }

    fn removal_steps(&self, bdf: Bdf) -> Vec<Step> {
        vec![Step {
            request: text(&self.removal(bdf)),
            with: None,
        }]
    }

    fn assign(&mut self, gift: &Gift) -> Result<Given, Failure> {
        let given = self.assign_slot(std::slice::from_ref(gift))?.pop();
        given.ok_or_else(|| Failure::internal("nothing was given"))
    }

    fn assign_slot(&mut self, gifts: &[Gift]) -> Result<Vec<Given>, Failure> {
        let functions = self.functions()?;
        let has = |gift: &&Gift| functions.iter().any(|function| function.device == gift.bdf);
        if let Some(gift) = gifts.iter().find(has) {
            return Err(failing("assigned", "this guest has it already")
                .device(gift.bdf)
                .step("list"));
        }
        // A group opens once, and the machine has it from its first function on.
        let brings = |gift: &Gift| {
            let is_sibling = |function: &Assigned| gift.siblings.contains(&function.device);
            let has_group = gift.backend == Backend::Type1 && functions.iter().any(is_sibling);
            !has_group && is_first_of_group(gift, gifts)
        };
        let opened = gifts.iter().filter(|gift| brings(gift)).map(|gift| open(&node(gift)));
        let opened: Vec<File> = opened.collect::<Result<_, _>>()?;
        let files: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
        self.is_told = true;
        let added = self.ask(&add(gifts, brings), &files);
        self.is_told = !is_refused(&added);
        match added? {
            Reply::Added(_) | Reply::AddedSlot(_) => {}
            other => return Err(strange(&other)),
        }
        let listed = self.functions()?;
        let given = gifts.iter().map(|gift| {
            let Some(assigned) = listed.iter().find(|function| function.device == gift.bdf) else {
                let message = "the guest has accepted the function, and does not list it";
                return Err(failing("read_back", message).device(gift.bdf).step("list"));
            };
            Ok(Given {
                id: None,
                backend: Some(match assigned.interface {
                    Interface::Type1 => Backend::Type1,
                    Interface::Iommufd => Backend::Iommufd,
                }),
                address: Some(assigned.address.to_string()),
            })
        });
        given.collect()
    }

    fn is_told(&self) -> bool {
        self.is_told
    }

    fn has(&mut self, bdf: Bdf) -> Result<bool, Failure> {
        Ok(self.find(bdf)?.is_some())
    }

    fn companions(&mut self, bdf: Bdf) -> Result<Vec<Other>, Failure> {
        let functions = self.functions()?;
        let slot = |address: Bdf| (address.segment, address.routing_id.bus(), address.routing_id.device());
        let own = functions.iter().find(|function| function.device == bdf);
        let own = own.map(|function| slot(function.address));
        let is_beside = |function: &&Assigned| function.device != bdf && Some(slot(function.address)) == own;
        let beside = functions.iter().filter(is_beside).map(|function| Other {
            bdf: function.device,
            guest_address: Some(function.address.to_string()),
        });
        Ok(beside.collect())
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
