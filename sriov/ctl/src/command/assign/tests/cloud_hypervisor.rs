//! A cloud-hypervisor that is none.

use super::*;

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
