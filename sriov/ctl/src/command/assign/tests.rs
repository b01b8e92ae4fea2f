//! Against servers that say what each test wants, well or badly.

use super::cloud_hypervisor::CloudHypervisor;
use super::libvirt::Libvirt;
use super::own::Own;
use super::qemu::Qemu;
use super::*;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

fn bdf() -> Bdf {
    "0000:01:10.0".parse().unwrap()
}

fn gift(backend: Backend, node: &str) -> Gift {
    Gift {
        bdf: bdf(),
        backend,
        is_demanded: false,
        node: node.to_owned(),
        group: GroupId(7),
    }
}

/// What a client says, with the inodes of the files that came with it.
struct Ear {
    stream: UnixStream,
    bytes: Vec<u8>,
    inodes: Vec<u64>,
}

impl Ear {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
            inodes: Vec::new(),
        }
    }

    /// `false` at the end.
    fn more(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 4096];
        let received = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let Ok(received) = received else { return false };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                let inode = |file: OwnedFd| File::from(file).metadata().unwrap().ino();
                self.inodes.extend(files.map(inode));
            }
        }
        self.bytes.extend(&buffer[..received.bytes]);
        received.bytes > 0
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line = self.bytes.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            if !self.more() {
                return None;
            }
        }
    }
}

/// A QEMU: what it has, and what was asked of it.
#[derive(Default)]
struct Machine {
    /// Devices by id, with bus and what they were made of.
    devices: Vec<(String, Value)>,
    /// Files that were passed and not used.
    files: Vec<(String, u64)>,
    objects: Vec<String>,
    asked: Vec<String>,
    /// Answers other than the usual ones, by command.
    odd: Vec<(&'static str, Value)>,
    /// Whether the guest lets go of what it is asked for.
    is_willing: bool,
    is_old: bool,
}

impl Machine {
    fn answer(&mut self, command: &str, arguments: &Value, inodes: &mut Vec<u64>) -> Vec<Value> {
        self.asked.push(command.to_owned());
        if let Some(at) = self.odd.iter().position(|(odd, _)| *odd == command) {
            return vec![self.odd.remove(at).1];
        }
        let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
        let done = || vec![json!({ "return": {} })];
        let refused = |why: String| vec![json!({ "error": { "class": "GenericError", "desc": why } })];
        match command {
            "getfd" => {
                let file = inodes.pop().expect("a descriptor comes with it");
                self.files.push((text("fdname"), file));
                done()
            }
            "closefd" => {
                self.files.retain(|(name, _)| *name != text("fdname"));
                done()
            }
            "object-add" if self.is_old => refused("invalid object type: iommufd".to_owned()),
            "object-add" => {
                self.files.retain(|(name, _)| *name != text("fd"));
                self.objects.push(text("id"));
                done()
            }
            "device_add" => {
                let file = text("fd");
                if !file.is_empty() {
                    let passed = self.files.iter().any(|(name, _)| *name == file);
                    assert!(passed && self.objects.contains(&text("iommufd")), "{arguments}");
                    self.files.retain(|(name, _)| *name != file);
                }
                self.devices.push((text("id"), arguments.clone()));
                done()
            }
            "device_del" => {
                if !self.is_willing {
                    return done();
                }
                let id = text("id");
                self.devices.retain(|(device, _)| *device != id);
                let deleted = json!({ "event": "DEVICE_DELETED", "data": { "device": id, "path": format!("/machine/peripheral/{id}") } });
                // Another one's comes in between.
                let other =
                    json!({ "event": "DEVICE_DELETED", "data": { "path": "/machine/peripheral/net0/virtio-backend" } });
                vec![other, json!({ "return": {} }), deleted]
            }
            "qom-list" => {
                let entry = |name: &str, kind: &str| json!({ "name": name, "type": format!("child<{kind}>") });
                let entries = match text("path").as_str() {
                    "/machine/peripheral" => {
                        let mut entries: Vec<Value> =
                            self.devices.iter().map(|(id, _)| entry(id, "vfio-pci")).collect();
                        entries.extend([entry("port0", "pcie-root-port"), entry("port1", "pcie-root-port")]);
                        entries.push(json!({ "name": "type", "type": "string" }));
                        entries
                    }
                    "/objects" => self.objects.iter().map(|name| entry(name, "iommufd")).collect(),
                    _ => return refused("Device not found".to_owned()),
                };
                vec![json!({ "return": entries })]
            }
            "qom-get" => {
                let device = self.devices.iter().find(|(id, _)| text("path").ends_with(id.as_str()));
                match device.and_then(|(_, made)| made["host"].as_str()) {
                    Some(host) => vec![json!({ "return": host })],
                    None => vec![json!({ "return": "" })],
                }
            }
            "query-pci" => {
                let port = |slot: u64, name: &str, below: Vec<Value>| {
                    json!({ "bus": 0, "slot": slot, "function": 0, "id": { "vendor": 0x1b36, "device": 12 }, "qdev_id": name,
                            "pci_bridge": { "bus": { "secondary": slot }, "devices": below } })
                };
                let drive = json!({ "bus": 2, "slot": 0, "function": 0, "id": { "vendor": 1, "device": 2 }, "qdev_id": "drive" });
                let below = self.devices.iter().map(|(id, _)| {
                    json!({ "bus": 3, "slot": 0, "function": 0, "id": { "vendor": 0x8086, "device": 0x10ca }, "qdev_id": id })
                });
                let devices = [port(2, "port0", vec![drive]), port(3, "port1", below.collect())];
                vec![json!({ "return": [{ "bus": 0, "devices": devices }] })]
            }
            _ => done(),
        }
    }
}

struct Server {
    directory: TempDir,
    machine: Arc<Mutex<Machine>>,
}

impl Server {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// A file in the place of a device node, and its inode.
    fn node(&self) -> (String, u64) {
        let path = self.directory.path().join("vfio0");
        let file = File::create(&path).unwrap();
        (path.to_str().unwrap().to_owned(), file.metadata().unwrap().ino())
    }

    fn qemu(&self, limit: Duration) -> Qemu {
        Qemu::new(self.socket(), None, Instant::now() + limit)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.machine.lock().unwrap().asked)
    }
}

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": ""}, "capabilities": ["oob"]}}"#;

fn server(machine: Machine) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let machine = Arc::new(Mutex::new(machine));
    let shared = Arc::clone(&machine);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut ear = Ear::new(stream.try_clone().unwrap());
            let say = |value: &Value| writeln!(&stream, "{value}\r").is_ok();
            let mut is_open = writeln!(&stream, "{GREETING}\r").is_ok();
            while is_open && let Some(line) = ear.line() {
                let request: Value = serde_json::from_str(&line).unwrap();
                let command = request["execute"].as_str().unwrap();
                let answers = shared
                    .lock()
                    .unwrap()
                    .answer(command, &request["arguments"], &mut ear.inodes);
                for mut answer in answers {
                    // Something else that happens, at any time.
                    is_open &= say(&json!({ "event": "RTC_CHANGE", "data": { "offset": 0 } }));
                    if answer.get("event").is_none() && answer.get("id").is_none() {
                        answer["id"] = request["id"].clone();
                    }
                    is_open &= say(&answer);
                }
            }
        }
    });
    Server { directory, machine }
}

fn willing() -> Machine {
    Machine {
        is_willing: true,
        ..Machine::default()
    }
}

#[test]
fn qemu_gets_the_address_and_the_first_free_port() {
    let server = server(willing());
    // One connection at a time, as QEMU itself serves them.
    let given = server.qemu(LONG).assign(&gift(Backend::Type1, "")).unwrap();
    assert_eq!(given.address.as_deref(), Some("0000:03:00.0"));
    assert_eq!(
        (given.id.as_deref(), given.backend),
        (Some("sriovctl-0000-01-10.0"), Some(Backend::Type1))
    );
    let made = server.machine.lock().unwrap().devices[0].1.clone();
    assert_eq!(
        made,
        json!({ "driver": "vfio-pci", "id": "sriovctl-0000-01-10.0", "bus": "port1", "host": "0000:01:10.0" })
    );
    assert_eq!(
        server.qemu(LONG).assign(&gift(Backend::Type1, "")).unwrap_err().kind,
        "assigned"
    );
    // All ports are taken now.
    let other = Gift {
        bdf: "0000:01:10.2".parse().unwrap(),
        ..gift(Backend::Type1, "")
    };
    let error = server.qemu(LONG).assign(&other).unwrap_err();
    assert_eq!(error.kind, "no_slot");
    assert!(error.fix.as_ref().unwrap().contains("pcie-root-port"));
    server.qemu(LONG).unassign(bdf()).unwrap();
    assert!(server.machine.lock().unwrap().devices.is_empty());
    assert_eq!(server.qemu(LONG).unassign(bdf()).unwrap_err().kind, "not_assigned");
}

#[test]
fn what_another_gave_to_qemu_is_found_by_its_address() {
    let server = server(willing());
    let device = ("hostdev0".to_owned(), json!({ "host": "0000:01:10.0" }));
    server.machine.lock().unwrap().devices.push(device);
    server.qemu(LONG).unassign(bdf()).unwrap();
    assert!(server.machine.lock().unwrap().devices.is_empty());
}

/// `/dev/iommu` is not there on every machine that runs tests.
fn with_object(mut machine: Machine) -> Machine {
    machine.objects.push("iommufd0".to_owned());
    machine
}

#[test]
fn qemu_gets_the_descriptor_of_the_character_device() {
    let server = server(with_object(willing()));
    let (node, inode) = server.node();
    server.machine.lock().unwrap().odd.push(("query-status", Value::Null));
    let given = server.qemu(LONG).assign(&gift(Backend::Iommufd, &node)).unwrap();
    assert_eq!(given.backend, Some(Backend::Iommufd));
    let made = server.machine.lock().unwrap().devices[0].1.clone();
    assert_eq!(
        (&made["iommufd"], &made["fd"]),
        (&json!("iommufd0"), &json!("sriovctl-0000-01-10.0"))
    );
    assert_eq!(made.get("host"), None);
    assert!(server.asked().contains(&"getfd".to_owned()));
    // Passed and used.
    assert!(server.machine.lock().unwrap().files.is_empty());
    assert!(inode > 0);
    server.qemu(LONG).unassign(bdf()).unwrap();
    assert_eq!(server.machine.lock().unwrap().objects, ["iommufd0"]);
}

#[test]
fn the_descriptor_that_arrives_is_that_of_the_node() {
    let refusal = json!({ "error": { "class": "GenericError", "desc": "vfio 0000:01:10.0: VFIO_MAP_DMA failed: Cannot allocate memory" } });
    let machine = Machine {
        odd: vec![("device_add", refusal), ("closefd", json!({ "return": {} }))],
        ..with_object(willing())
    };
    let server = server(machine);
    let (node, inode) = server.node();
    let error = server.qemu(LONG).assign(&gift(Backend::Iommufd, &node)).unwrap_err();
    assert_eq!((error.step.as_deref(), error.kind), (Some("QMP device_add"), "refused"));
    assert!(error.message.contains("Cannot allocate memory"));
    assert!(error.fix.as_ref().unwrap().contains("memlock"), "{error:?}");
    // It was asked to close it, and in this test has not.
    assert_eq!(
        server.machine.lock().unwrap().files,
        [("sriovctl-0000-01-10.0".to_owned(), inode)]
    );
    assert_eq!(server.asked().last().map(String::as_str), Some("closefd"));
}

#[test]
fn a_guest_that_keeps_a_function_is_waited_for_no_longer_than_said() {
    let server = server(Machine::default());
    server.qemu(LONG).assign(&gift(Backend::Type1, "")).unwrap();
    let error = server.qemu(SHORT).unassign(bdf()).unwrap_err();
    assert_eq!(
        (error.kind, error.step.as_deref()),
        ("timed_out", Some("wait for DEVICE_DELETED"))
    );
    // It was asked before, and does it in the end.
    {
        let mut machine = server.machine.lock().unwrap();
        let pending = "Device sriovctl-0000-01-10.0 is already in the process of unplug";
        machine.odd.push((
            "device_del",
            json!({ "error": { "class": "GenericError", "desc": pending } }),
        ));
    }
    assert_eq!(server.qemu(SHORT).unassign(bdf()).unwrap_err().kind, "timed_out");
    {
        let mut machine = server.machine.lock().unwrap();
        let refusal = json!({ "event": "DEVICE_UNPLUG_GUEST_ERROR", "data": { "device": "sriovctl-0000-01-10.0", "path": "/machine/peripheral/sriovctl-0000-01-10.0" } });
        machine.odd.push(("device_del", refusal));
    }
    // Without an answer, an event alone is not enough.
    assert_eq!(server.qemu(SHORT).unassign(bdf()).unwrap_err().kind, "timed_out");
    server.machine.lock().unwrap().is_willing = true;
    server.qemu(LONG).unassign(bdf()).unwrap();
}

/// Says `greeting` to whom connects and then nothing.
fn mute(greeting: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let greeting = greeting.to_vec();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The client may have gone.
            drop(stream.write_all(&greeting));
            open.push(stream);
        }
    });
    (directory, path)
}

#[test]
fn who_does_not_speak_qmp_is_told_from_who_does_not_speak() {
    for (greeting, kind) in [
        (&b""[..], "timed_out"),
        (b"{\"QMP\": ", "timed_out"),
        (b"{\"QMP\": {}}\n", "timed_out"),
        (b"SSH-2.0-OpenSSH_10\r\n", "malformed"),
        (b"{}\n", "malformed"),
        (b"[1]\n", "malformed"),
        (b"\xff\xfe\n", "malformed"),
    ] {
        let (_directory, path) = mute(greeting);
        let mut qemu = Qemu::new(path, None, Instant::now() + SHORT);
        let error = qemu.assign(&gift(Backend::Type1, "")).unwrap_err();
        assert_eq!(error.kind, kind, "{greeting:?}: {error:?}");
        assert!(error.step.as_ref().unwrap().contains("connect to") && error.fix.is_some());
    }
    let mut nobody = Qemu::new("/nonexistent/socket".into(), None, Instant::now() + SHORT);
    assert_eq!(nobody.assign(&gift(Backend::Type1, "")).unwrap_err().kind, "connection");
}

#[test]
fn strange_lists_of_qemu_end_in_an_error() {
    let strange = [
        json!(null),
        json!(7),
        json!([]),
        json!([{ "devices": 7 }]),
        json!([{ "devices": [{ "pci_bridge": 7 }] }]),
    ];
    for value in strange {
        let machine = Machine {
            odd: vec![("query-pci", json!({ "return": value }))],
            ..willing()
        };
        let error = server(machine)
            .qemu(LONG)
            .assign(&gift(Backend::Type1, ""))
            .unwrap_err();
        assert_eq!(error.kind, "no_slot", "{error:?}");
    }
}

type Told = (String, String, Vec<u64>);

/// A cloud-hypervisor: answers by request line, and what it is told.
struct Rest {
    directory: TempDir,
    /// Request line, body, inodes.
    told: Arc<Mutex<Vec<Told>>>,
}

fn rest(mut answer: impl FnMut(&str, &str, bool) -> String + Send + 'static) -> Rest {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&told);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut ear = Ear::new(stream.try_clone().unwrap());
            let Some(line) = ear.line() else { continue };
            let mut len = 0;
            while let Some(field) = ear.line().filter(|field| field.trim() != "") {
                if let Some(value) = field.strip_prefix("Content-Length: ") {
                    len = value.trim().parse().unwrap();
                }
            }
            while ear.bytes.len() < len && ear.more() {}
            let body = String::from_utf8(ear.bytes.clone()).unwrap();
            let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
            let said = answer(&line, &body, !ear.inodes.is_empty());
            shared.lock().unwrap().push((line, body, ear.inodes));
            // The client may have gone.
            drop((&stream).write_all(said.as_bytes()));
        }
    });
    Rest { directory, told }
}

impl Rest {
    fn vmm(&self, limit: Duration) -> CloudHypervisor {
        CloudHypervisor::new(self.directory.path().join("socket"), Instant::now() + limit)
    }

    fn told(&self, call: &str) -> Vec<(String, Vec<u64>)> {
        let told = self.told.lock().unwrap();
        let calls = told.iter().filter(|(line, ..)| line.ends_with(call));
        calls.map(|(_, body, files)| (body.clone(), files.clone())).collect()
    }
}

fn http(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A guest with what it was given; lets go at the third look.
fn guest(uses_iommufd: bool, takes_descriptors: bool) -> impl FnMut(&str, &str, bool) -> String {
    let mut devices: Vec<Value> = Vec::new();
    let mut leaving = None;
    move |line, body, has_file| {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        match line {
            "GET /api/v1/vmm.ping" => http(
                200,
                r#"{"build_version":"v53.0","version":"53.0.0","pid":4711,"features":["kvm"]}"#,
            ),
            "GET /api/v1/vm.info" => {
                if let Some((looks, _)) = &mut leaving {
                    *looks -= 1;
                    if *looks == 0 {
                        leaving = None;
                    }
                }
                let mut tree = serde_json::Map::new();
                let leaving = leaving.iter().map(|(_, id): &(u32, String)| id.clone());
                let ids = devices.iter().map(|device| device["id"].as_str().unwrap().to_owned());
                tree.extend(ids.chain(leaving).map(|id| (id, json!({}))));
                let info = json!({ "config": { "platform": { "iommufd": uses_iommufd }, "devices": devices }, "state": "Running", "device_tree": tree });
                http(200, &info.to_string())
            }
            "PUT /api/v1/vm.add-device" => {
                if body.get("path").is_none() && !(has_file && takes_descriptors) {
                    return http(400, r#"["Bad Request","missing field `path`"]"#);
                }
                devices.push(body.clone());
                http(200, &json!({ "id": body["id"], "bdf": "0000:00:06.0" }).to_string())
            }
            "PUT /api/v1/vm.remove-device" => {
                devices.retain(|device| device["id"] != body["id"]);
                leaving = Some((3, body["id"].as_str().unwrap().to_owned()));
                "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\n\r\n".to_owned()
            }
            _ => http(404, ""),
        }
    }
}

#[test]
fn cloud_hypervisor_gets_the_path_and_lets_go_when_the_guest_does() {
    let rest = rest(guest(false, true));
    let given = rest.vmm(LONG).assign(&gift(Backend::Type1, "")).unwrap();
    assert_eq!(given.address.as_deref(), Some("0000:00:06.0"));
    assert_eq!(given.backend, Some(Backend::Type1));
    let (body, files) = rest.told("vm.add-device").remove(0);
    assert_eq!(
        body,
        r#"{"path":"/sys/bus/pci/devices/0000:01:10.0","id":"sriovctl-0000-01-10.0"}"#
    );
    assert!(files.is_empty());
    assert_eq!(
        rest.vmm(LONG).assign(&gift(Backend::Type1, "")).unwrap_err().kind,
        "assigned"
    );
    assert_eq!(rest.vmm(LONG).peer().unwrap(), Some(4711));
    rest.vmm(LONG).unassign(bdf()).unwrap();
    assert_eq!(rest.told("vm.remove-device")[0].0, r#"{"id":"sriovctl-0000-01-10.0"}"#);
    assert_eq!(rest.vmm(LONG).unassign(bdf()).unwrap_err().kind, "not_assigned");
}

#[test]
fn cloud_hypervisor_gets_a_descriptor_where_it_takes_one() {
    for (takes_descriptors, attempts) in [(true, 1), (false, 2)] {
        let rest = rest(guest(true, takes_descriptors));
        let node = rest.directory.path().join("vfio0");
        let inode = File::create(&node).unwrap().metadata().unwrap().ino();
        let given = rest
            .vmm(LONG)
            .assign(&gift(Backend::Iommufd, node.to_str().unwrap()))
            .unwrap();
        assert_eq!(given.backend, Some(Backend::Iommufd));
        let told = rest.told("vm.add-device");
        assert_eq!(told.len(), attempts);
        assert_eq!(told[0], (r#"{"id":"sriovctl-0000-01-10.0"}"#.to_owned(), vec![inode]));
        assert!(
            told[1..]
                .iter()
                .all(|(body, files)| body.contains("/sys/bus") && files.is_empty())
        );
    }
}

#[test]
fn cloud_hypervisor_has_one_interface_for_all_functions() {
    let demanded = |backend| Gift {
        is_demanded: true,
        ..gift(backend, "")
    };
    for (uses_iommufd, backend) in [(false, Backend::Iommufd), (true, Backend::Type1)] {
        let error = rest(guest(uses_iommufd, true))
            .vmm(LONG)
            .assign(&demanded(backend))
            .unwrap_err();
        assert_eq!(error.kind, "interface");
    }
}

#[test]
fn what_cloud_hypervisor_refuses_is_passed_on() {
    let refusing = |status, body: &'static str| {
        let mut guest = guest(false, false);
        let rest = rest(move |line, said, file| match line {
            "PUT /api/v1/vm.add-device" => http(status, body),
            _ => guest(line, said, file),
        });
        rest.vmm(LONG).assign(&gift(Backend::Type1, "")).unwrap_err()
    };
    let error = refusing(
        500,
        r#"["Internal Server Error","The device could not be added","Cannot allocate memory (os error 12)"]"#,
    );
    assert_eq!(
        (error.kind, error.step.as_deref()),
        ("refused", Some("PUT vm.add-device"))
    );
    assert_eq!(error.causes.len(), 2);
    assert!(error.fix.as_ref().unwrap().contains("memlock"));
    assert_eq!(refusing(500, "no room").message, "no room");
    assert!(refusing(404, "").message.contains("404"));
    assert!(
        rest(|_, _, _| http(404, ""))
            .vmm(LONG)
            .unassign(bdf())
            .unwrap_err()
            .fix
            .is_some()
    );
}

#[test]
fn strange_answers_of_a_server_end_in_an_error() {
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
    let fields = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(200));
    for (answer, kind) in [
        ("", "connection"),
        ("HTTP/1.1 200 OK\r\n", "connection"),
        ("SSH-2.0\r\n", "malformed"),
        ("HTTP/1.1 x\r\n\r\n", "malformed"),
        ("HTTP/1.1 200 OK\r\nx\r\n\r\n", "malformed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "malformed"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "malformed",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", "connection"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "malformed"),
        ("\u{fe}\r\n", "malformed"),
        (endless, "malformed"),
        (&fields, "malformed"),
    ] {
        let said = answer.to_owned();
        let error = rest(move |_, _, _| said.clone()).vmm(LONG).unassign(bdf()).unwrap_err();
        assert_eq!(error.kind, kind, "{answer:?}: {error:?}");
    }
    let (_directory, path) = mute(b"HTTP/1.1 ");
    let error = CloudHypervisor::new(path, Instant::now() + SHORT)
        .unassign(bdf())
        .unwrap_err();
    assert_eq!(error.kind, "timed_out");
}

#[test]
fn a_guest_of_cloud_hypervisor_that_keeps_a_function_is_not_waited_for() {
    let mut guest = guest(false, false);
    let rest = rest(move |line, said, file| match line {
        "PUT /api/v1/vm.remove-device" => http(204, ""),
        _ => guest(line, said, file),
    });
    rest.vmm(LONG).assign(&gift(Backend::Type1, "")).unwrap();
    assert_eq!(rest.vmm(SHORT).unassign(bdf()).unwrap_err().kind, "timed_out");
}

/// A virsh that keeps its domain in a file.
fn virsh(script: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("virsh");
    let state = directory.path().join("hostdev");
    let script = format!("#!/bin/sh\nstate={}\n{script}\n", state.display());
    let mut file = File::create(&path).unwrap();
    file.write_all(script.as_bytes()).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
    (directory, path)
}

const VIRSH: &str = r#"
[ "$2 $3" = "--domain web" ] || { echo "error: failed to get domain '$3'" >&2; exit 1; }
case $1 in
dumpxml) echo "<domain type='kvm'><devices>"; cat "$state" 2>/dev/null; echo "</devices></domain>";;
attach-device) [ "$4 $5 $6" = "--file /dev/stdin --live" ] && cat > "$state";;
detach-device) cat >/dev/null; rm "$state";;
esac"#;

fn libvirt(virsh: &std::path::Path, domain: &str, limit: Duration) -> Libvirt {
    Libvirt::new(virsh.to_owned(), domain.to_owned(), Instant::now() + limit)
}

#[test]
fn libvirt_gets_the_element_and_is_asked_what_it_has() {
    let (directory, path) = virsh(VIRSH);
    let vmm = || libvirt(&path, "web", LONG);
    vmm().assign(&gift(Backend::Type1, "")).unwrap();
    let mut element = String::new();
    File::open(directory.path().join("hostdev"))
        .unwrap()
        .read_to_string(&mut element)
        .unwrap();
    assert_eq!(element, sriov::hostdev(bdf()));
    assert_eq!(vmm().assign(&gift(Backend::Type1, "")).unwrap_err().kind, "assigned");
    vmm().unassign(bdf()).unwrap();
    assert_eq!(vmm().unassign(bdf()).unwrap_err().kind, "not_assigned");
    let error = libvirt(&path, "db", LONG).unassign(bdf()).unwrap_err();
    assert_eq!(
        (error.step.as_deref(), error.message.as_str()),
        (Some("virsh dumpxml"), "failed to get domain 'db'")
    );
    let demanded = Gift {
        is_demanded: true,
        ..gift(Backend::Type1, "")
    };
    assert_eq!(vmm().assign(&demanded).unwrap_err().exit, Exit::Usage);
}

#[test]
fn a_virsh_that_fails_hangs_or_lies_is_an_error() {
    for (script, kind) in [
        ("echo hello", "malformed"),
        ("exec sleep 600", "timed_out"),
        ("exit 1", "refused"),
        ("case $1 in dumpxml) echo '<domain/>';; esac", "read_back"),
    ] {
        let (_directory, path) = virsh(script);
        let error = libvirt(&path, "web", Duration::from_secs(2))
            .assign(&gift(Backend::Type1, ""))
            .unwrap_err();
        assert_eq!(error.kind, kind, "{script}: {error:?}");
    }
    let error = libvirt(std::path::Path::new("/nonexistent/virsh"), "web", LONG)
        .unassign(bdf())
        .unwrap_err();
    assert!(error.kind == "virsh" && error.fix.is_some(), "{error:?}");
}

#[test]
fn our_own_guest_is_asked_over_its_control_socket() {
    use vmm_glue::control::{Add, Assigned, Control, serve};

    #[derive(Debug, Default)]
    struct Guest(Mutex<Vec<Assigned>>);

    impl Control for Guest {
        fn add(&self, add: &Add, files: Vec<OwnedFd>) -> vmm_glue::Result<Assigned> {
            assert_eq!(files.len(), 1);
            let assigned = Assigned {
                device: add.device,
                interface: add.interface,
                address: "0000:02:00.0".parse().unwrap(),
            };
            self.0.lock().unwrap().push(assigned.clone());
            Ok(assigned)
        }

        fn remove(&self, device: Bdf, timeout: Duration) -> vmm_glue::Result<()> {
            assert!(timeout < LONG);
            if timeout < SHORT {
                return Err(vmm_glue::Error::new(
                    "wait for the guest",
                    vmm_glue::ErrorKind::TimedOut,
                ));
            }
            self.0.lock().unwrap().retain(|assigned| assigned.device != device);
            Ok(())
        }

        fn list(&self) -> Vec<Assigned> {
            self.0.lock().unwrap().clone()
        }

        fn stop(&self) {}
    }

    let directory = tempfile::tempdir().unwrap();
    let (path, node) = (directory.path().join("control"), directory.path().join("vfio0"));
    File::create(&node).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || serve(&listener, &Guest::default()));
    let vmm = |limit| Own::new(path.clone(), Instant::now() + limit);
    let gift = gift(Backend::Iommufd, node.to_str().unwrap());
    let given = vmm(LONG).assign(&gift).unwrap();
    assert_eq!(
        (given.address.as_deref(), given.backend),
        (Some("0000:02:00.0"), Some(Backend::Iommufd))
    );
    assert_eq!(vmm(LONG).assign(&gift).unwrap_err().kind, "assigned");
    let error = vmm(SHORT).unassign(bdf()).unwrap_err();
    assert_eq!(
        (error.kind, error.step.as_deref()),
        ("timed_out", Some("wait for the guest"))
    );
    vmm(LONG).unassign(bdf()).unwrap();
    assert_eq!(vmm(LONG).unassign(bdf()).unwrap_err().kind, "not_assigned");
    assert_eq!(
        Own::new("/nonexistent".into(), Instant::now() + LONG)
            .unassign(bdf())
            .unwrap_err()
            .kind,
        "connection"
    );
}

#[test]
fn what_would_be_said_is_what_is_said() {
    let requests = |steps: Vec<Step>| -> Vec<String> {
        let steps = steps.into_iter();
        steps
            .map(|Step { request, with }| format!("{request} {}", with.unwrap_or_default()))
            .collect()
    };
    let qemu = Qemu::new("/run/qmp".into(), None, Instant::now());
    let said = requests(qemu.steps(&gift(Backend::Iommufd, "/dev/vfio/devices/vfio0")));
    insta::assert_snapshot!(said.join("\n"));
}
