//! Against servers that say what each test wants, well or badly.

use super::cloud_hypervisor::CloudHypervisor;
use super::libvirt::Libvirt;
use super::own::Own;
use super::qemu::Qemu;
use super::*;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

mod cloud_hypervisor;
mod libvirt;
mod qemu;

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
        token: None,
        siblings: vec!["0000:01:10.2".parse().unwrap()],
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
fn our_own_guest_is_asked_over_its_control_socket() {
    use vmm_glue::control::{Add, Assigned, Control, Interface, serve};

    /// Of container and group it has the group already.
    #[derive(Debug, Default)]
    struct Guest(Mutex<Vec<Assigned>>);

    impl Control for Guest {
        fn add(&self, functions: &[Add], files: Vec<OwnedFd>) -> vmm_glue::Result<Vec<Assigned>> {
            let is_iommufd = functions[0].interface == Interface::Iommufd;
            assert_eq!(files.len(), if is_iommufd { functions.len() } else { 0 });
            let assigned = |(number, add): (usize, &Add)| Assigned {
                device: add.device,
                interface: add.interface,
                address: format!("0000:02:00.{number}").parse().unwrap(),
            };
            let assigned: Vec<Assigned> = functions.iter().enumerate().map(assigned).collect();
            self.0.lock().unwrap().extend(assigned.clone());
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
    thread::spawn(move || serve(&listener, &Guest::default(), &|_| true));
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
    // The second one of a group comes without the group, which opens once.
    vmm(LONG).assign(&gift).unwrap();
    assert_eq!(vmm(LONG).peer().unwrap(), Some(std::process::id()));
    let second = |siblings| Gift {
        bdf: gift.siblings[0],
        siblings,
        backend: Backend::Type1,
        ..gift.clone()
    };
    let alone = vmm(LONG).assign(&second(Vec::new())).unwrap_err();
    assert_eq!(alone.step.as_deref(), Some("open /dev/vfio/7"));
    vmm(LONG).assign(&second(vec![bdf()])).unwrap();
    assert!(vmm(LONG).has(gift.siblings[0]).unwrap());
    // Two of one slot, each with its own file.
    let third = |number: u8| Gift {
        bdf: format!("0000:01:11.{number}").parse().unwrap(),
        ..gift.clone()
    };
    let both = vmm(LONG).assign_slot(&[third(0), third(2)]).unwrap();
    let addresses: Vec<_> = both.iter().map(|given| given.address.as_deref()).collect();
    assert_eq!(addresses, [Some("0000:02:00.0"), Some("0000:02:00.1")]);
    assert_eq!(
        Own::new("/nonexistent".into(), Instant::now() + LONG)
            .unassign(bdf())
            .unwrap_err()
            .kind,
        "connection"
    );
}

#[test]
fn who_has_the_functions_is_asked_of_the_kernel_and_no_connection_waits_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let mut own = Own::new(path, Instant::now() + LONG);
    // It has not answered yet.
    assert_eq!(own.peer().unwrap(), Some(std::process::id()));
    assert_eq!(Ear::new(listener.accept().unwrap().0).line(), None);
    let later = thread::spawn(move || {
        let mut ear = Ear::new(listener.accept().unwrap().0);
        ear.line().unwrap();
        let nothing = json!({ "functions": [] });
        writeln!(ear.stream, "{nothing}").unwrap();
    });
    assert!(!own.has(bdf()).unwrap());
    later.join().unwrap();
}

#[test]
fn of_a_guest_that_was_told_and_says_nothing_it_is_said_that_it_may_have_it() {
    let directory = tempfile::tempdir().unwrap();
    let (path, node) = (directory.path().join("control"), directory.path().join("vfio0"));
    File::create(&node).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let mut ear = Ear::new(listener.accept().unwrap().0);
        ear.line().unwrap();
        let nothing = json!({ "functions": [] });
        writeln!(ear.stream, "{nothing}").unwrap();
        ear.line().unwrap();
        // Not a word.
        ear.line();
    });
    let mut own = Own::new(path, Instant::now() + SHORT);
    assert!(!own.is_told());
    let failure = own.assign(&gift(Backend::Iommufd, node.to_str().unwrap())).unwrap_err();
    assert_eq!((failure.kind, own.is_told()), ("timed_out", true));
    let to = Target {
        kind: TargetKind::Sriovctl,
        name: "/run/control".to_owned(),
    };
    let failure = unsure(on(failure, bdf()), &to);
    assert!(failure.message.contains("may have it"), "{}", failure.message);
    let fix = failure.fix.as_deref().unwrap();
    assert!(
        fix.contains("sriovctl unassign 0000:01:10.0 --from sriovctl:/run/control"),
        "{fix}"
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

#[test]
fn functions_of_one_slot_are_asked_for_at_once_and_a_group_comes_with_the_first_of_it() {
    let steps = |gifts: &[Gift]| {
        let steps = Own::new("/run/control".into(), Instant::now()).slot_steps(gifts);
        let [Step { request, with }] = steps.try_into().unwrap();
        (serde_json::from_str::<Value>(&request).unwrap(), with.unwrap())
    };
    let other = |backend, node| Gift {
        bdf: "0000:01:10.2".parse().unwrap(),
        ..gift(backend, node)
    };
    let both = [gift(Backend::Iommufd, "/dev/a"), other(Backend::Iommufd, "/dev/b")];
    let (request, with) = steps(&both);
    let of = |device: &str| json!({ "device": device, "interface": "iommufd" });
    assert_eq!(request, json!({ "add_slot": [of("0000:01:10.0"), of("0000:01:10.2")] }));
    assert_eq!(with, "/dev/a, /dev/b");
    let (request, with) = steps(&[gift(Backend::Type1, ""), other(Backend::Type1, "")]);
    let group = |at: &str| request.pointer(at).and_then(Value::as_u64);
    assert_eq!(
        (group("/add_slot/0/group"), group("/add_slot/1/group")),
        (Some(7), None)
    );
    assert_eq!(with, "/dev/vfio/7");
}
