//! A virsh that is none.

use super::*;

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
