use super::*;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, Barrier};

/// Adds what has a descriptor, and gives back nothing in time.
#[derive(Debug, Default)]
struct Machine(Mutex<Vec<Assigned>>);

impl Control for Machine {
    fn add(&self, functions: &[Add], files: Vec<OwnedFd>) -> Result<Vec<Assigned>> {
        if files.len() != functions.len() {
            return Err(Error::new("add", ErrorKind::Invalid("no descriptor")));
        }
        let mut added = Vec::new();
        for ((number, add), file) in functions.iter().enumerate().zip(files) {
            let mut said = String::new();
            let read = File::from(file).read_to_string(&mut said);
            read.map_err(|error| Error::new("read", ErrorKind::Io(error)))?;
            assert_eq!(said, format!("device {}", add.device));
            added.push(Assigned {
                device: add.device,
                interface: add.interface,
                address: format!("02:00.{number}").parse().unwrap(),
            });
        }
        self.0.lock().unwrap().extend(added.clone());
        Ok(added)
    }

    fn remove(&self, _: Bdf, _: Duration) -> Result<()> {
        Err(Error::new("wait for the guest", ErrorKind::TimedOut))
    }

    fn list(&self) -> Vec<Assigned> {
        self.0.lock().unwrap().clone()
    }

    fn stop(&self) {}
}

fn device() -> Bdf {
    "0000:01:10.0".parse().unwrap()
}

/// What is answered.
fn listed(functions: &[Assigned]) -> Reply {
    Reply::Functions(functions.to_vec())
}

/// A machine whose guest lets go of a function only when it is stopped.
#[derive(Debug)]
struct Stubborn {
    asked: Barrier,
    stopped: Barrier,
}

impl Control for Stubborn {
    fn add(&self, _: &[Add], _: Vec<OwnedFd>) -> Result<Vec<Assigned>> {
        Err(Error::new("add", ErrorKind::Exhausted("slot")))
    }

    fn remove(&self, _: Bdf, timeout: Duration) -> Result<()> {
        assert_eq!(timeout, LONGEST);
        self.asked.wait();
        self.stopped.wait();
        Ok(())
    }

    fn list(&self) -> Vec<Assigned> {
        Vec::new()
    }

    fn stop(&self) {
        self.stopped.wait();
    }
}

#[test]
fn a_machine_can_be_stopped_while_a_removal_waits_and_another_one_is_told_to_come_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let machine = Arc::new(Stubborn {
        asked: Barrier::new(2),
        stopped: Barrier::new(2),
    });
    let served = Arc::clone(&machine);
    thread::spawn(move || serve(&listener, &*served, &|_| true));
    let remove = Request::Remove(Remove {
        device: device(),
        timeout_ms: u64::MAX,
    });
    thread::scope(|scope| {
        let removed = scope.spawn(|| Client::connect(&path).unwrap().ask(&remove, &[], LONG).unwrap());
        machine.asked.wait();
        let mut other = Client::connect(&path).unwrap();
        let Reply::Failed(busy) = other.ask(&remove, &[], LONG).unwrap() else {
            panic!("it waits")
        };
        assert!(busy.message.contains("busy"), "{busy:?}");
        assert_eq!(other.ask(&Request::List, &[], LONG).unwrap(), listed(&[]));
        assert_eq!(other.ask(&Request::Stop, &[], LONG).unwrap(), Reply::Stopping);
        assert_eq!(removed.join().unwrap(), Reply::Removed);
    });
}

#[test]
fn a_failure_says_of_which_function_it_is() {
    let failed = Failed::from(&Error::new("add", ErrorKind::Exhausted("slot")).on(device()));
    assert_eq!((failed.device, &*failed.message), (Some(device()), "no slot is left"));
    let sent = serde_json::to_string(&Reply::Failed(failed.clone())).unwrap();
    assert!(
        sent.starts_with(r#"{"failed":{"device":"0000:01:10.0","step":"add","#),
        "{sent}"
    );
    assert_eq!(serde_json::from_str::<Reply>(&sent).unwrap(), Reply::Failed(failed));
    let of_none = Failed::from(&Error::new("send", ErrorKind::TimedOut));
    let sent = serde_json::to_string(&of_none).unwrap();
    assert!(!sent.contains("device"), "{sent}");
    assert_eq!(serde_json::from_str::<Failed>(&sent).unwrap(), of_none);
}

fn connect() -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let machine = Arc::new(Machine::default());
    thread::spawn(move || serve(&listener, &*machine, &|_| true));
    let client = Client::connect(&path).unwrap();
    (directory, client)
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn requests_are_answered_one_after_another_and_descriptors_arrive() {
    let (directory, mut client) = connect();
    let path = directory.path().join("device");
    File::create(&path).unwrap().write_all(b"device 0000:01:10.0").unwrap();
    let file = File::open(path).unwrap();
    let add = Request::Add(Add {
        device: device(),
        interface: Interface::Iommufd,
        group: None,
        token: None,
    });
    let Reply::Added(added) = client.ask(&add, &[file.as_fd()], LONG).unwrap() else {
        panic!("not added")
    };
    assert_eq!(added.address.to_string(), "0000:02:00.0");
    assert_eq!(client.ask(&Request::List, &[], LONG).unwrap(), listed(&[added]));
    let remove = Request::Remove(Remove {
        device: device(),
        timeout_ms: 1,
    });
    let Reply::Failed(failed) = client.ask(&remove, &[], LONG).unwrap() else {
        panic!("removed")
    };
    assert!(failed.timed_out && failed.step == "wait for the guest", "{failed:?}");
    assert_eq!(client.ask(&Request::Stop, &[], LONG).unwrap(), Reply::Stopping);
    let two = [device(), "0000:01:10.2".parse().unwrap()].map(|device| Add {
        device,
        interface: Interface::Iommufd,
        group: None,
        token: None,
    });
    let files = two.clone().map(|add| {
        let path = directory.path().join(add.device.to_string());
        write!(File::create(&path).unwrap(), "device {}", add.device).unwrap();
        File::open(path).unwrap()
    });
    let slot = Request::AddSlot(two.to_vec());
    let Reply::AddedSlot(both) = client.ask(&slot, &[files[0].as_fd(), files[1].as_fd()], LONG).unwrap() else {
        panic!("not added")
    };
    let addresses: Vec<String> = both.iter().map(|added| added.address.to_string()).collect();
    assert_eq!(addresses, ["0000:02:00.0", "0000:02:00.1"]);
    // Without its descriptor.
    assert!(matches!(client.ask(&add, &[], LONG).unwrap(), Reply::Failed(_)));
}

#[test]
fn requests_have_the_documented_form() {
    let text = |request: &Request| serde_json::to_string(request).unwrap();
    let add = Request::Add(Add {
        device: device(),
        interface: Interface::Iommufd,
        group: None,
        token: None,
    });
    assert_eq!(text(&add), r#"{"add":{"device":"0000:01:10.0","interface":"iommufd"}}"#);
    let with_token = Request::Add(Add {
        device: device(),
        interface: Interface::Type1,
        group: Some(7),
        token: Some("bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3".parse().unwrap()),
    });
    let expected = concat!(
        r#"{"add":{"device":"0000:01:10.0","interface":"type1","group":7,"#,
        r#""token":"bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"}}"#
    );
    assert_eq!(text(&with_token), expected);
    let Request::Add(one) = &add else { panic!("it is one") };
    let slot = Request::AddSlot(vec![one.clone(), one.clone()]);
    let both = r#"{"device":"0000:01:10.0","interface":"iommufd"}"#;
    assert_eq!(text(&slot), format!(r#"{{"add_slot":[{both},{both}]}}"#));
    assert_eq!(text(&Request::List), r#""list""#);
    for request in [add, with_token, slot, Request::List, Request::Stop] {
        let line = text(&request);
        assert_eq!(parse::<Request>(line.as_bytes(), "").unwrap(), request);
    }
    for wrong in [
        "",
        "{}",
        "\"ad\"",
        r#"{"add":{"device":"x","interface":"iommufd"}}"#,
        r#"{"add":{"device":"0000:01:10.0","interface":"iommufd","token":"x"}}"#,
        r#"{"remove":{}}"#,
    ] {
        assert!(parse::<Request>(wrong.as_bytes(), "").is_err(), "{wrong}");
    }
}

#[test]
fn who_talks_nonsense_is_told_so_and_others_are_heard_after() {
    let (directory, client) = connect();
    drop(client);
    let path = directory.path().join("control");
    let said = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        assert!(read.is_ok() || answer.is_empty());
        answer
    };
    assert!(said(b"hello\n").starts_with(r#"{"failed":"#));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"\"li").unwrap();
    drop(stream);
    // The other side closes in the middle of it.
    let mut stream = UnixStream::connect(&path).unwrap();
    while stream.write_all(&[b'x'; 4096]).is_ok() {}
    let mut client = Client::connect(&path).unwrap();
    assert_eq!(client.ask(&Request::List, &[], LONG).unwrap(), listed(&[]));
}

#[test]
fn who_may_not_ask_is_not_heard() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let first = AtomicUsize::new(0);
    thread::spawn(move || {
        let admits = |_: &UnixStream| first.fetch_add(1, Ordering::Relaxed) > 0;
        serve(&listener, &Machine::default(), &admits)
    });
    let mut stranger = Client::connect(&path).unwrap();
    let error = stranger.ask(&Request::List, &[], LONG).unwrap_err();
    assert!(!matches!(error.kind, ErrorKind::TimedOut), "{error}");
    let mut owner = Client::connect(&path).unwrap();
    assert_eq!(owner.ask(&Request::List, &[], LONG).unwrap(), listed(&[]));
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let error = client.ask(&Request::List, &[], Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::TimedOut), "{error}");
}

#[test]
fn a_descriptor_belongs_to_the_request_that_it_came_with_however_many_wait() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut client, mut machine) = (Connection::new(ours).unwrap(), Connection::new(theirs).unwrap());
    let file = File::open("/proc/self/exe").unwrap();
    let all: [&[BorrowedFd<'_>]; 4] = [&[], &[], &[file.as_fd(), file.as_fd()], &[]];
    for files in all {
        client.send(&Request::List, files).unwrap();
    }
    for files in all {
        let (line, received) = machine.receive(Some(LONG)).unwrap().unwrap();
        assert_eq!((line.as_slice(), received.len()), (&b"\"list\"\n"[..], files.len()));
    }
}
