//! A QEMU that is none.

use super::*;

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
