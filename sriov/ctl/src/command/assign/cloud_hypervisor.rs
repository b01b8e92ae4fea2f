//! cloud-hypervisor, over its REST API: `vm.add-device` and `vm.remove-device`.
//!
//! Follows cloud-hypervisor `vmm/src/api/openapi/cloud-hypervisor.yaml` and `docs/vfio.md`. Where its platform uses iommufd the character device is
//! opened here and passed with the request, which it takes since v53; before, and with container and group, it gets the path.

use super::http::{self, Answer};
use super::{Gift, Given, Pause, REFUSED, Step, Vmm, failing, id, open};
use crate::failure::Failure;
use pci::Bdf;
use serde_json::{Value, json};
use sriov::{Backend, sysfs_path};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

/// A running cloud-hypervisor.
#[derive(Debug)]
pub(super) struct CloudHypervisor {
    socket: PathBuf,
    deadline: Instant,
    is_told: bool,
}

impl CloudHypervisor {
    pub(super) fn new(socket: PathBuf, deadline: Instant) -> Self {
        Self {
            socket,
            deadline,
            is_told: false,
        }
    }

    fn ask(
        &self,
        method: &str,
        call: &str,
        body: Option<&Value>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, Failure> {
        let body = body.map(Value::to_string);
        let path = format!("/api/v1/{call}");
        let asked = http::ask(&self.socket, method, &path, body.as_deref(), file, self.deadline);
        asked.map_err(|error| {
            let failure = super::wire_failure(&format!("{method} {call}"), &error);
            failure.fix("see that cloud-hypervisor runs with --api-socket PATH")
        })
    }

    fn info(&self) -> Result<Value, Failure> {
        let answer = self.ask("GET", "vm.info", None, None)?;
        if !answer.is_success() {
            return Err(refused("GET vm.info", &answer).fix("create and boot the guest first"));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|_error| failing("malformed", "the answer is not JSON").step("GET vm.info"))
    }

    /// Whether it comes to that before the deadline.
    fn wait(&self, is_done: impl Fn(&Value) -> bool) -> Result<bool, Failure> {
        let mut pause = Pause::until(self.deadline);
        let mut is_so = is_done(&self.info()?);
        while !is_so && pause.next() {
            is_so = match self.info() {
                // The deadline came within a look.
                Err(failure) if failure.kind == "timed_out" => return Ok(false),
                info => is_done(&info?),
            };
        }
        Ok(is_so)
    }
}

impl Vmm for CloudHypervisor {
    fn peer(&mut self) -> Result<Option<u32>, Failure> {
        let answer = self.ask("GET", "vmm.ping", None, None)?;
        let ping: Option<Value> = serde_json::from_slice(&answer.body).ok();
        Ok(ping.and_then(|ping| u32::try_from(ping.get("pid")?.as_u64()?).ok()))
    }

    fn steps(&self, gift: &Gift) -> Vec<Step> {
        vec![match gift.backend {
            Backend::Iommufd => Step {
                request: format!("PUT /api/v1/vm.add-device {}", by_descriptor(gift.bdf)),
                with: Some(gift.node.clone()),
            },
            Backend::Type1 => Step {
                request: format!("PUT /api/v1/vm.add-device {}", by_path(gift.bdf)),
                with: None,
            },
        }]
    }

    fn removal_steps(&self, bdf: Bdf) -> Vec<Step> {
        vec![Step {
            request: format!("PUT /api/v1/vm.remove-device {}", json!({ "id": id(bdf) })),
            with: None,
        }]
    }

    fn assign(&mut self, gift: &Gift) -> Result<Given, Failure> {
        let info = self.info()?;
        if let Some(id) = find(&info, gift.bdf) {
            return Err(failing("assigned", format!("this guest has it already, as {id}")).step("GET vm.info"));
        }
        let uses_iommufd = info.pointer("/config/platform/iommufd").and_then(Value::as_bool) == Some(true);
        if gift.is_demanded && uses_iommufd != (gift.backend == Backend::Iommufd) {
            let other = if uses_iommufd {
                "uses iommufd"
            } else {
                "uses container and group"
            };
            let failure = failing("interface", format!("this guest {other} for all of its functions"));
            return Err(failure
                .step("GET vm.info")
                .fix("leave --interface out, or start it otherwise: --platform iommufd=on"));
        }
        let mut answer = None;
        if uses_iommufd {
            let file = open(&gift.node)?;
            self.is_told = true;
            let asked = self.ask(
                "PUT",
                "vm.add-device",
                Some(&by_descriptor(gift.bdf)),
                Some(file.as_fd()),
            )?;
            // A version that wants a path says so, and has changed nothing.
            answer = Some(asked).filter(|answer| answer.status != 400);
        }
        self.is_told = true;
        let answer = match answer {
            Some(answer) => answer,
            None => self.ask("PUT", "vm.add-device", Some(&by_path(gift.bdf)), None)?,
        };
        if !answer.is_success() {
            self.is_told = false;
            return Err(refused("PUT vm.add-device", &answer));
        }
        // Without a body it will be there when the guest boots.
        let added: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let said = |name: &str| Some(added.as_ref()?.get(name)?.as_str()?.to_owned());
        let id = said("id").unwrap_or_else(|| id(gift.bdf));
        let is_there = self.wait(|info| configured(info).any(|device| id_of(device) == Some(&id)))?;
        if !is_there {
            let message = "cloud-hypervisor has accepted the function, and does not list it";
            return Err(failing("read_back", message).step("GET vm.info"));
        }
        Ok(Given {
            id: Some(id),
            backend: Some(if uses_iommufd { Backend::Iommufd } else { Backend::Type1 }),
            address: said("bdf"),
        })
    }

    fn is_told(&self) -> bool {
        self.is_told
    }

    fn has(&mut self, bdf: Bdf) -> Result<bool, Failure> {
        Ok(find(&self.info()?, bdf).is_some())
    }

    fn unassign(&mut self, bdf: Bdf) -> Result<(), Failure> {
        let info = self.info()?;
        let Some(id) = find(&info, bdf) else {
            return Err(failing("not_assigned", "this guest does not have it").step("GET vm.info"));
        };
        let answer = self.ask("PUT", "vm.remove-device", Some(&json!({ "id": id })), None)?;
        if !answer.is_success() {
            return Err(refused("PUT vm.remove-device", &answer));
        }
        let in_tree = |info: &Value| info.get("device_tree").is_some_and(|tree| tree.get(&id).is_some());
        let is_gone = self.wait(|info| !in_tree(info) && find(info, bdf).is_none())?;
        if is_gone {
            return Ok(());
        }
        let failure = failing("timed_out", "the guest has not let go of it in time, and keeps it");
        Err(failure
            .step("wait for the guest")
            .fix("see that the guest runs and its driver can be unbound, then ask again, with a longer --timeout"))
    }
}

fn by_path(bdf: Bdf) -> Value {
    json!({ "path": sysfs_path(bdf), "id": id(bdf) })
}

fn by_descriptor(bdf: Bdf) -> Value {
    json!({ "id": id(bdf) })
}

fn configured(info: &Value) -> impl Iterator<Item = &Value> {
    let devices = info.pointer("/config/devices").and_then(Value::as_array);
    devices.into_iter().flatten()
}

fn id_of(device: &Value) -> Option<&str> {
    device.get("id")?.as_str()
}

/// The id of a function: by its path, or ours.
fn find(info: &Value, bdf: Bdf) -> Option<String> {
    let is_it = |device: &&Value| {
        let path = device.get("path").and_then(Value::as_str).unwrap_or_default();
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        name.parse() == Ok(bdf) || id_of(device) == Some(&id(bdf))
    };
    // While the guest is asked to let go of it only the tree has it.
    let in_tree = || info.get("device_tree")?.get(id(bdf)).map(|_| id(bdf));
    let device = configured(info).find(is_it).and_then(id_of);
    device.map(str::to_owned).or_else(in_tree)
}

fn refused(step: &str, answer: &Answer) -> Failure {
    // Newer versions send a list, nearest first.
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    let mut causes: Vec<String> = serde_json::from_slice(&answer.body).unwrap_or_else(|_error| match said.is_empty() {
        true => Vec::new(),
        false => vec![said],
    });
    let last = causes.pop();
    let message = last.unwrap_or_else(|| format!("cloud-hypervisor answers {}", answer.status));
    let failure = failing(REFUSED, message.clone()).step(step).causes(causes);
    if message.contains("Cannot allocate memory") || message.contains("os error 12") {
        return failure
            .fix("raise the limit of locked memory of cloud-hypervisor: prlimit --memlock=unlimited --pid PID");
    }
    failure
}
