//! QEMU, over its machine protocol: `device_add` and `device_del` of `vfio-pci`.
//!
//! Follows QEMU `qapi/{qdev,pci,qom,misc}.json`, `docs/devel/vfio-iommufd.rst` and `docs/pcie.txt`. With iommufd the descriptors are opened here and
//! passed on (`getfd`): QEMU needs no right to the nodes. With container and group it opens them itself.

use super::qmp::{Problem, Qmp, request};
use super::{Gift, Given, REFUSED, Step, Vmm, failing, id, is_refused, open};
use crate::failure::Failure;
use pci::Bdf;
use serde_json::{Value, json};
use sriov::Backend;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Instant;

/// The object that this program makes where there is none.
const IOMMUFD: &str = "sriovctl-iommufd";
/// What devices with an id and those without hang below.
const DEVICES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];
/// Ports with room for one device, which can come while the machine runs.
const PORTS: [&str; 3] = ["pcie-root-port", "xio3130-downstream", "ioh3420"];
/// The host bridge of the machine without PCI Express, whose root bus takes devices while it runs.
const I440FX: (u64, u64) = (0x8086, 0x1237);

/// A running QEMU.
#[derive(Debug)]
pub(super) struct Qemu {
    socket: PathBuf,
    /// The bus to use.
    bus: Option<String>,
    deadline: Instant,
    qmp: Option<Qmp>,
    is_told: bool,
}

impl Qemu {
    pub(super) fn new(socket: PathBuf, bus: Option<String>, deadline: Instant) -> Self {
        Self {
            socket,
            bus,
            deadline,
            qmp: None,
            is_told: false,
        }
    }

    fn qmp(&mut self) -> Result<&mut Qmp, Failure> {
        if self.qmp.is_none() {
            let connected = Qmp::connect(&self.socket, self.deadline);
            let step = format!("connect to {}", self.socket.display());
            self.qmp = Some(connected.map_err(|problem| failure(&step, problem))?);
        }
        self.qmp
            .as_mut()
            .ok_or_else(|| Failure::internal("no connection to QEMU"))
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        let executed = self.qmp()?.execute(command, arguments);
        executed.map_err(|problem| failure(command, problem))
    }

    /// The children of an object, each with what it is; none where there is no such object.
    fn children(&mut self, path: &str) -> Result<Vec<(String, String)>, Failure> {
        let list = match self.qmp()?.execute("qom-list", json!({ "path": path })) {
            Err(Problem::Refused(_)) => return Ok(Vec::new()),
            other => other.map_err(|problem| failure("qom-list", problem))?,
        };
        let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let child = |entry: &Value| {
            let kind = entry.get("type")?.as_str()?;
            let kind = kind.strip_prefix("child<")?.strip_suffix('>')?;
            Some((entry.get("name")?.as_str()?.to_owned(), kind.to_owned()))
        };
        Ok(entries.iter().filter_map(child).collect())
    }

    /// The function as QEMU has it: its id, or its path where it has none.
    fn find(&mut self, bdf: Bdf) -> Result<Option<String>, Failure> {
        for directory in DEVICES {
            for (name, kind) in self.children(directory)? {
                if !kind.starts_with("vfio-pci") {
                    continue;
                }
                let path = format!("{directory}/{name}");
                let host = self
                    .qmp()?
                    .execute("qom-get", json!({ "path": path, "property": "host" }));
                let is_it = match host {
                    // One whose descriptor was passed has no address.
                    Err(Problem::Refused(_)) => false,
                    other => {
                        let host = other.map_err(|problem| failure("qom-get", problem))?;
                        host.as_str().and_then(|host| host.parse().ok()) == Some(bdf)
                    }
                };
                if is_it || name == id(bdf) {
                    return Ok(Some(if directory == DEVICES[0] { name } else { path }));
                }
            }
        }
        Ok(None)
    }

    /// Where the function can go: the bus below a free port, or `None` for the root bus of a machine that takes it there.
    fn free_bus(&mut self) -> Result<Option<String>, Failure> {
        let buses = self.execute("query-pci", json!({}))?;
        let devices = devices(&buses);
        let ids = |device: &Value| {
            let ids = device.get("id")?;
            Some((ids.get("vendor")?.as_u64()?, ids.get("device")?.as_u64()?))
        };
        if devices.iter().any(|device| ids(device) == Some(I440FX)) {
            return Ok(None);
        }
        let mut ports = Vec::new();
        for directory in DEVICES {
            for (name, kind) in self.children(directory)? {
                if PORTS.contains(&kind.as_str()) && directory == DEVICES[0] {
                    ports.push(name);
                }
            }
        }
        let is_empty = |port: &&Value| {
            let below = port.pointer("/pci_bridge/devices").and_then(Value::as_array);
            below.is_none_or(Vec::is_empty)
        };
        let free = devices.iter().copied().filter(is_empty).filter_map(|port| {
            let id = port.get("qdev_id")?.as_str()?;
            ports.iter().find(|port| *port == id)
        });
        let mut free = free.cloned();
        free.next().map(Some).ok_or_else(|| {
            let failure = failing("no_slot", "QEMU has no free port for another device").step("query-pci");
            failure.fix("start it with -device pcie-root-port,id=port1 for each one to come, or name a bus with --bus")
        })
    }

    /// The object through which QEMU uses iommufd. One that is made here stays for the next function: QEMU would not close its descriptor.
    fn iommufd(&mut self) -> Result<String, Failure> {
        let objects = self.children("/objects")?;
        if let Some((name, _)) = objects.into_iter().find(|(_, kind)| kind == "iommufd") {
            return Ok(name);
        }
        self.pass("/dev/iommu", IOMMUFD)?;
        let made = self.execute("object-add", iommufd());
        if made.is_err() {
            self.forget(IOMMUFD);
        }
        made.map(|_| IOMMUFD.to_owned())
    }

    /// Opens a file and gives it to QEMU under a name.
    fn pass(&mut self, path: &str, name: &str) -> Result<(), Failure> {
        let file = open(path)?;
        let sent = self
            .qmp()?
            .execute_with("getfd", json!({ "fdname": name }), Some(file.as_fd()));
        sent.map(drop).map_err(|problem| failure("getfd", problem))
    }

    /// Lets QEMU close a descriptor that it did not use; there is none when it did.
    fn forget(&mut self, name: &str) {
        if let Ok(qmp) = self.qmp() {
            drop(qmp.execute("closefd", json!({ "fdname": name })));
        }
    }

    /// Tells QEMU to take a device.
    fn tell(&mut self, device: Value) -> Result<(), Failure> {
        self.is_told = true;
        let added = self.execute("device_add", device);
        self.is_told = !is_refused(&added);
        added.map(drop)
    }

    fn add(&mut self, gift: &Gift, bus: Option<&str>) -> Result<Backend, Failure> {
        if gift.backend == Backend::Type1 {
            self.tell(device(gift, bus, None))?;
            return Ok(Backend::Type1);
        }
        let object = match self.iommufd() {
            // A QEMU without it: older than 9.0, or built so.
            Err(error) if !gift.is_demanded && error.message.contains("iommufd") => {
                self.tell(device(gift, bus, None))?;
                return Ok(Backend::Type1);
            }
            other => other?,
        };
        let name = id(gift.bdf);
        self.pass(&gift.node, &name)?;
        let added = self.tell(device(gift, bus, Some(&object)));
        if let Err(error) = added {
            self.forget(&name);
            return Err(error);
        }
        Ok(Backend::Iommufd)
    }
}

impl Vmm for Qemu {
    fn peer(&mut self) -> Result<Option<u32>, Failure> {
        Ok(self.qmp()?.peer())
    }

    fn steps(&self, gift: &Gift) -> Vec<Step> {
        let bus = self.bus.as_deref().unwrap_or("a free port");
        let object = (gift.backend == Backend::Iommufd).then_some(IOMMUFD);
        let mut steps = Vec::new();
        if object.is_some() {
            let pass = |name: &str, path: &str| Step {
                request: request("getfd", json!({ "fdname": name })).to_string(),
                with: Some(path.to_owned()),
            };
            steps.push(pass(IOMMUFD, "/dev/iommu"));
            steps.push(Step::plain(&request("object-add", iommufd())));
            steps.push(pass(&id(gift.bdf), &gift.node));
        }
        steps.push(Step::plain(&request("device_add", device(gift, Some(bus), object))));
        steps
    }

    fn removal_steps(&self, bdf: Bdf) -> Vec<Step> {
        vec![Step::plain(&request("device_del", json!({ "id": id(bdf) })))]
    }

    fn assign(&mut self, gift: &Gift) -> Result<Given, Failure> {
        if let Some(id) = self.find(gift.bdf)? {
            return Err(failing("assigned", format!("this guest has it already, as {id}")).step("qom-list"));
        }
        let bus = match self.bus.clone() {
            Some(bus) => Some(bus),
            None => self.free_bus()?,
        };
        let backend = self.add(gift, bus.as_deref())?;
        // What it says is there is there: the device is realized when the answer comes.
        let buses = self.execute("query-pci", json!({}))?;
        let id = id(gift.bdf);
        let found = devices(&buses)
            .into_iter()
            .find(|device| device.get("qdev_id").and_then(Value::as_str) == Some(&id));
        let found = found.ok_or_else(|| {
            let message = "QEMU has accepted the function, and does not list it";
            failing("read_back", message).step("query-pci")
        })?;
        let part = |name| found.get(name).and_then(Value::as_u64).unwrap_or_default();
        Ok(Given {
            id: Some(id),
            backend: Some(backend),
            address: Some(format!(
                "0000:{:02x}:{:02x}.{:x}",
                part("bus"),
                part("slot"),
                part("function")
            )),
        })
    }

    fn is_told(&self) -> bool {
        self.is_told
    }

    fn has(&mut self, bdf: Bdf) -> Result<bool, Failure> {
        Ok(self.find(bdf)?.is_some())
    }

    fn unassign(&mut self, bdf: Bdf) -> Result<(), Failure> {
        let Some(id) = self.find(bdf)? else {
            return Err(failing("not_assigned", "this guest does not have it").step("qom-list"));
        };
        match self.qmp()?.execute("device_del", json!({ "id": id })) {
            // Asked before: the guest may still do it.
            Err(Problem::Refused(said)) if said.contains("in the process of unplug") => {}
            other => drop(other.map_err(|problem| failure("device_del", problem))?),
        }
        let is_it = |value: &Value| {
            let is = |name: &str| value.get(name).and_then(Value::as_str);
            is("device") == Some(&id) || is("path").is_some_and(|path| path == id || path.ends_with(&format!("/{id}")))
        };
        let event = self.qmp()?.event(|event| {
            ["DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"].contains(&event.name.as_str()) && is_it(&event.data)
        });
        let event = event.map_err(|problem| match problem {
            Problem::Wire(error) if error.kind() == io::ErrorKind::TimedOut => {
                let failure = failing("timed_out", "the guest has not let go of it in time, and keeps it");
                failure.step("wait for DEVICE_DELETED").fix(
                    "see that the guest runs and its driver can be unbound, then ask again, with a longer --timeout",
                )
            }
            problem => failure("wait for DEVICE_DELETED", problem),
        })?;
        if event.name != "DEVICE_DELETED" {
            let failure = failing("refused", "the guest refuses to let go of it").step(event.name);
            return Err(failure.fix("end its use in the guest, then ask again"));
        }
        if self.find(bdf)?.is_some() {
            let message = "QEMU says that the function is gone, and still lists it";
            return Err(failing("read_back", message).step("qom-list"));
        }
        Ok(())
    }
}

fn iommufd() -> Value {
    json!({ "qom-type": "iommufd", "id": IOMMUFD, "fd": IOMMUFD })
}

fn device(gift: &Gift, bus: Option<&str>, iommufd: Option<&str>) -> Value {
    let mut device = json!({ "driver": "vfio-pci", "id": id(gift.bdf) });
    if let Some(device) = device.as_object_mut() {
        let mut insert = |name: &str, value: String| device.insert(name.to_owned(), value.into());
        if let Some(bus) = bus {
            insert("bus", bus.to_owned());
        }
        if let Some(token) = gift.token {
            insert("vf-token", token.to_string());
        }
        match iommufd {
            Some(object) => {
                insert("iommufd", object.to_owned());
                insert("fd", id(gift.bdf));
            }
            None if gift.bdf.segment.0 > 0xffff => {
                insert("sysfsdev", sriov::sysfs_path(gift.bdf));
            }
            None => {
                insert("host", gift.bdf.to_string());
            }
        }
    }
    device
}

/// Every device that `query-pci` lists, also those behind bridges.
fn devices(buses: &Value) -> Vec<&Value> {
    let mut devices = Vec::new();
    let mut lists: Vec<&Value> = buses
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|bus| bus.get("devices"))
        .collect();
    while let Some(list) = lists.pop() {
        for device in list.as_array().into_iter().flatten() {
            lists.extend(device.pointer("/pci_bridge/devices"));
            devices.push(device);
        }
    }
    devices
}

fn failure(step: &str, problem: Problem) -> Failure {
    match problem {
        Problem::Wire(error) => super::wire_failure(step, &error)
            .fix("see that QEMU runs with -qmp unix:PATH,server=on,wait=off and that nobody else uses that socket"),
        Problem::Malformed(what) => failing("malformed", what).step(step).fix("name the socket of -qmp"),
        Problem::Refused(said) => {
            let fix = fix(&said);
            let failure = failing(REFUSED, said).step(format!("QMP {step}"));
            match fix {
                Some(fix) => failure.fix(fix),
                None => failure,
            }
        }
    }
}

/// What to do about what QEMU says.
fn fix(said: &str) -> Option<&'static str> {
    if said.contains("does not support hotplugging") {
        return Some("name a hot-pluggable bus with --bus: start QEMU with -device pcie-root-port,id=port1");
    }
    if said.contains("Cannot allocate memory") {
        let fix =
            "raise the limit of locked memory of QEMU above the guest's memory: prlimit --memlock=unlimited --pid PID";
        return Some(fix);
    }
    if said.contains("iommufd") && said.contains("invalid object type") {
        return Some("this QEMU has no iommufd: --interface type1");
    }
    if said.contains("Could not open") || said.contains("Permission denied") {
        return Some("let QEMU's user open the nodes in /dev/vfio, or let descriptors be passed: --interface iommufd");
    }
    None
}
