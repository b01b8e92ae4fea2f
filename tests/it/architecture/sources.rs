//! Rules about the text of the sources: mostly of what must not occur in them.

use super::Rule;
use super::code::is_in;
use super::rule::Source;

/// Where libraries lie; everything above them is a program or a test.
const LIBRARIES: [&str; 6] = [
    "pci/src/",
    "vfio-core/src/",
    "iommu/src/",
    "sriov/src/",
    "drivers/src/",
    "vmm-glue/src/",
];

fn is_library(path: &str) -> bool {
    LIBRARIES.iter().any(|directory| path.starts_with(directory))
}

fn is_any(_: &str) -> bool {
    true
}

/// The kernel boundary, the one module of vmm-glue that may hold what kvm-ioctls demands, and the bare calls that ours are measured against.
fn may_be_unsafe(path: &str) -> bool {
    let places = ["vfio-core/src/sys/", "vmm-glue/src/kvm/", "benches/raw/src/"];
    places.iter().any(|place| path.starts_with(place)) || path == "vfio-core/src/sys.rs"
}

#[test]
fn every_crate_forbids_unsafe_code_but_the_three_that_need_it() {
    let rule = Rule {
        says: "a crate root begins with #![forbid(unsafe_code)]; only vfio-core, vmm-glue and benches/raw do without",
        concerns: |path| {
            let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") || path.contains("src/bin/");
            let is_free = ["vfio-core/", "vmm-glue/", "benches/raw/"]
                .iter()
                .any(|free| path.starts_with(free));
            (is_root || path == "tests/vm/main.rs") && !is_free
        },
        finds: |source| {
            let forbid = ["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"];
            match source.all.lines_with(&forbid).is_empty() {
                true => vec![1],
                false => vec![],
            }
        },
    };
    rule.rejects("pci/src/lib.rs", "//! #![forbid(unsafe_code)]");
    rule.rejects("tests/lab/src/main.rs", "#![deny(unsafe_code)] fn main() {}");
    rule.accepts("pci/src/lib.rs", "#![forbid(unsafe_code)]");
    rule.rejects("benches/src/lib.rs", "");
    rule.accepts("vmm-glue/src/lib.rs", "");
    rule.holds();
}

#[test]
fn unsafe_ioctl_and_mmap_occur_only_in_the_kernel_boundary() {
    let rule = Rule {
        says: "unsafe code, ioctl and mmap belong to vfio-core/src/sys, vmm-glue/src/kvm and benches/raw",
        concerns: |path| !may_be_unsafe(path),
        finds: |source| {
            source
                .all
                .lines_reaching(&["rustix::ioctl", "rustix::mm"])
                .into_iter()
                .chain(source.all.lines_naming(is_function_of_libc))
                .chain(unsafe_code(source))
                .collect()
        },
    };
    rule.rejects("vfio-core/src/region.rs", "unsafe impl Send for Region {}");
    rule.rejects("vfio-core/src/cdev.rs", "unsafe fn f() {\n    unsafe { g() }\n}");
    rule.rejects("vfio-core/src/cdev.rs", "unsafe fn f() { unsafe { g() } }");
    rule.rejects("vfio-core/src/cdev.rs", "unsafe extern \"C\" { fn f(); }");
    rule.rejects("sriov/src/usage.rs", "use rustix::{fs, ioctl};");
    rule.rejects("benches/src/device/map.rs", "use rustix::ioctl;");
    rule.rejects("vmm-glue/src/sandbox.rs", "use libc::{self, prctl};");
    rule.accepts(
        "vmm-glue/src/sandbox.rs",
        "const IOCTL: libc::c_long = libc::SYS_ioctl;",
    );
    rule.accepts("vfio-core/src/cdev.rs", "pub unsafe fn open_no_iommu() {}");
    rule.accepts("vfio-core/src/sys/vfio.rs", "fn f() { unsafe { g() } }");
    rule.accepts("pci/src/config.rs", "// unsafe\nconst S: &str = \"unsafe\";");
    rule.holds();
}

/// Constants and types of libc reach nothing.
fn is_function_of_libc(path: &str) -> bool {
    let mut parts = path.split("::");
    let name = (parts.next() == Some("libc")).then(|| parts.next().unwrap_or_default());
    name.is_some_and(|name| !name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.starts_with("c_"))
}

/// The lines with `unsafe`, except where it declares a function.
fn unsafe_code(source: &Source) -> Vec<usize> {
    let mut lines = source.all.lines_with(&["unsafe"]);
    for declared in source.all.lines_with(&["unsafe", "fn"]) {
        let at = lines.iter().position(|line| *line == declared);
        lines.remove(at.unwrap());
    }
    lines
}

#[test]
fn only_the_crate_of_the_kernel_boundary_declares_unsafe_functions() {
    let rule = Rule {
        says: "an unsafe fn belongs to vfio-core, for what only the caller can know: that no IOMMU guards a device",
        concerns: |path| !path.starts_with("vfio-core/src/") && !may_be_unsafe(path),
        finds: |source| source.all.lines_with(&["unsafe", "fn"]),
    };
    rule.rejects("pci/src/config.rs", "pub unsafe fn read() {}");
    rule.rejects("iommu/src/space.rs", "fn f() { type F = unsafe fn(); }");
    rule.accepts("vfio-core/src/cdev.rs", "pub unsafe fn open_no_iommu() {}");
    rule.accepts("iommu/src/space.rs", "fn f() {}");
    rule.holds();
}

#[test]
fn pci_reaches_the_machine_only_through_sysfs_rs() {
    let rule = Rule {
        says: "in pci only src/sysfs.rs opens files, so that every reader works on a captured tree",
        concerns: |path| path.starts_with("pci/src/") && path != "pci/src/sysfs.rs",
        finds: |source| {
            let code = &source.shipped;
            let outside = ["std::fs", "std::os::unix::fs", "std::net", "std::process"];
            let mut lines = code.lines_reaching(&outside);
            lines.extend(code.lines_naming(|path| is_in(path, "rustix") && !is_errno(path)));
            for method in [
                "exists",
                "try_exists",
                "is_file",
                "is_dir",
                "is_symlink",
                "read_dir",
                "canonicalize",
            ] {
                lines.extend(code.lines_with(&[".", method, "("]));
            }
            lines
        },
    };
    rule.rejects("pci/src/topology/read.rs", "use std::{fs::File, path::Path};");
    rule.rejects("pci/src/names/mod.rs", "fn f() { std::fs::read(\"/etc/passwd\"); }");
    rule.rejects("pci/src/group.rs", "use rustix::fs::openat;");
    rule.rejects("pci/src/group.rs", "fn f(path: &Path) -> bool { path.exists() }");
    rule.accepts("pci/src/sysfs.rs", "use rustix::fs::openat;");
    rule.accepts("pci/src/reading.rs", "use rustix::io::Errno;");
    rule.accepts("pci/src/group.rs", "#[cfg(test)] mod tests { use std::fs; }");
    rule.holds();
}

/// The error numbers, and what leads to them in a `use`.
fn is_errno(path: &str) -> bool {
    ["rustix", "rustix::io"].contains(&path) || is_in(path, "rustix::io::Errno")
}

#[test]
fn no_library_looks_at_the_environment() {
    let rule = Rule {
        says: "no environment below the programs: take the value as an argument",
        concerns: is_library,
        finds: |source| source.shipped.lines_reaching(&["std::env"]),
    };
    rule.rejects("sriov/src/journal.rs", "fn f() { std::env::var_os(\"HOME\"); }");
    rule.rejects("pci/src/names/mod.rs", "use std::{env, path::Path};");
    rule.accepts("sriov/ctl/src/main.rs", "use std::env;");
    rule.holds();
}

#[test]
fn no_library_has_state_of_its_own() {
    let rule = Rule {
        says: "no global state below the programs: keep it in a value that the caller owns",
        concerns: is_library,
        finds: |source| {
            let code = &source.shipped;
            let mut lines = code.lines_calling(&["thread_local"]);
            lines.extend(code.lines_with_static(|name| {
                let cells = ["Mutex", "RwLock", "Once", "Cell", "Lazy"];
                name.starts_with("Atomic") || cells.iter().any(|cell| name.contains(cell))
            }));
            lines
        },
    };
    rule.rejects("iommu/src/pool.rs", "static mut COUNT: u32 = 0;");
    rule.rejects(
        "pci/src/names/mod.rs",
        "fn f() { static NAMES: OnceLock<Names> = OnceLock::new(); }",
    );
    rule.rejects("drivers/src/fake.rs", "pub static NEXT: AtomicU32 = AtomicU32::new(0);");
    rule.rejects("drivers/src/fake.rs", "thread_local! { static DEPTH: u8 = 0; }");
    rule.accepts("pci/src/names/mod.rs", "static TABLE: [&'static str; 1] = [\"\"];");
    rule.accepts("sriov/src/apply.rs", "struct Shared(&'static Mutex<u8>);");
    rule.holds();
}

#[test]
fn plans_are_pure() {
    let rule = Rule {
        says: "plan performs no I/O: what it has to know is in the Machine",
        concerns: |path| path == "sriov/src/plan.rs" || path.starts_with("sriov/src/plan/"),
        finds: |source| {
            let code = &source.shipped;
            let outside =
                ["env", "fs", "io", "net", "os", "process", "sync", "thread"].map(|name| format!("std::{name}"));
            let mut lines = code.lines_naming(|path| {
                let mut parts = path.split("::");
                outside.iter().any(|module| is_in(path, module))
                    || is_in(path, "rustix")
                    || parts.any(|part| IMPURE.contains(&part))
                    || path.rsplit_once("::").is_some_and(|(_, last)| is_reading(last))
            });
            for method in ["read", "write", "scan", "open"] {
                lines.extend(code.lines_with(&[".", method, "("]));
            }
            lines
        },
    };
    rule.rejects("sriov/src/plan.rs", "use std::fs;");
    rule.rejects("sriov/src/plan/bind.rs", "use crate::{Access, Plan};");
    rule.rejects("sriov/src/plan/bind.rs", "fn f(a: &mut dyn crate::Access) {}");
    rule.rejects(
        "sriov/src/plan/count.rs",
        "fn f() { Topology::read_fields(&sysfs, fields); }",
    );
    rule.rejects(
        "sriov/src/plan/count.rs",
        "fn f() -> Instant { std::time::Instant::now() }",
    );
    rule.rejects("sriov/src/plan/release.rs", "fn f(x: X) { x.read(path) }");
    rule.accepts(
        "sriov/src/plan/bind.rs",
        "use crate::{Action, Machine}; use std::time::Duration;",
    );
    rule.accepts("sriov/src/plan.rs", "#[cfg(test)] mod tests { use std::fs; }");
    rule.accepts("sriov/src/apply.rs", "use crate::Access;");
    rule.holds();
}

/// What reaches the machine, or the clock.
const IMPURE: [&str; 12] = [
    "Access",
    "Executor",
    "Instant",
    "Journal",
    "Lock",
    "Sysfs",
    "SystemTime",
    "WorkerAccess",
    "apply",
    "bus",
    "undo",
    "worker",
];

fn is_reading(function: &str) -> bool {
    ["read", "write", "scan", "open"]
        .iter()
        .any(|verb| function == *verb || function.starts_with(&format!("{verb}_")))
}

#[test]
fn files_are_short_enough_to_be_read() {
    let rule = Rule {
        says: "longer than 450 lines: split the file by meaning",
        concerns: is_any,
        finds: |source| source.text.lines().nth(450).map(|_| 451).into_iter().collect(),
    };
    rule.rejects("pci/src/bar.rs", &"\n".repeat(451));
    rule.accepts("pci/src/bar.rs", &"\n".repeat(450));
    rule.holds();
}

#[test]
fn every_file_of_a_program_or_library_begins_with_what_it_does() {
    let rule = Rule {
        says: "a source begins with //! and what it does",
        concerns: |path| path.contains("src/"),
        finds: |source| {
            let is_empty = source.shipped.lines_naming(|_| true).is_empty();
            match is_empty || source.text.starts_with("//! ") {
                true => vec![],
                false => vec![1],
            }
        },
    };
    rule.rejects("pci/src/bar.rs", "use std::fmt;");
    rule.accepts("pci/src/bar.rs", "//! Address windows.\nuse std::fmt;");
    rule.holds();
}

#[test]
fn nothing_is_ignored_left_undone_or_waited_out() {
    let rule = Rule {
        says: "no #[ignore], todo!, unimplemented! or sleep: skip with a reason, finish it, wait for the event itself",
        concerns: is_any,
        finds: |source| {
            let code = &source.all;
            let mut lines = code.lines_calling(&["todo", "unimplemented"]);
            lines.extend(code.lines_with(&["#", "[", "ignore"]));
            lines.extend(code.lines_naming(|path| {
                let (module, name) = path.rsplit_once("::").unwrap_or(("", path));
                (name.ends_with("nanosleep") && !name.starts_with("SYS_"))
                    || (module.ends_with("thread") && name.starts_with("sleep"))
            }));
            lines
        },
    };
    rule.rejects("pci/tests/sysfs.rs", "#[test] #[ignore] fn slow() {}");
    rule.rejects("pci/tests/sysfs.rs", "#[test] #[ignore = \"slow\"] fn slow() {}");
    rule.rejects("iommu/src/space.rs", "fn f() { todo!() }");
    rule.rejects("iommu/src/space.rs", "fn f() { unimplemented!(\"later\") }");
    rule.rejects(
        "sriov/src/apply.rs",
        "#[cfg(test)] mod tests { fn f() { std::thread::sleep(TICK); } }",
    );
    rule.rejects("sriov/src/apply.rs", "use std::thread::{self, sleep};");
    rule.accepts(
        "sriov/src/apply.rs",
        "/// Does not thread::sleep or todo!().\nfn f() {}",
    );
    rule.holds();
}

#[test]
fn libraries_return_values_and_print_nothing() {
    let rule = Rule {
        says: "a library prints nothing: return it, or take somewhere to write to",
        concerns: is_library,
        finds: |source: &Source| {
            let macros = ["print", "println", "eprint", "eprintln", "dbg"];
            source.shipped.lines_calling(&macros)
        },
    };
    rule.rejects("sriov/src/undo.rs", "fn f() { eprintln!(\"undone\"); }");
    rule.accepts("sriov/ctl/src/main.rs", "fn f() { eprintln!(\"undone\"); }");
    rule.accepts("sriov/src/undo.rs", "/// println!()\nfn f() {}");
    rule.holds();
}
