//! What must be refused, as a table: by which exit code, in which words, and without a trace on the machine.

use super::sriovctl;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::fs::{read_dir, remove_file};
use std::path::{Path, PathBuf};
use system_tests::tree::{Node, Tree};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NO_MATCH: i32 = 32;
const PARTIAL_MATCH: i32 = 64;

/// What is done to the machine before.
enum Damage {
    None,
    Removed(&'static str),
    Fifo(&'static str),
    Text(&'static str, &'static str),
}

struct Refusal {
    damage: Damage,
    arguments: &'static [&'static str],
    code: i32,
    says: &'static [&'static str],
}

/// A NIC with room for 8 VFs behind each of three root ports: a plain one, one without a driver, one without an IOMMU.
fn machine(directory: &Path) -> Tree {
    let nics = [1, 2, 3].map(|slot: u8| {
        let at = |text: String| text.parse().unwrap();
        let port = Node {
            group: Some(slot.into()),
            ..Node::port(at(format!("00:{slot:02x}.0")), None, slot, slot)
        };
        let mut nic = Node {
            group: Some(u32::from(slot) + 10),
            ..Node::nic(at(format!("{slot:02x}:00.0")), port.bdf, &format!("ens{slot}")).with_room_for(8, 8, 0x1889)
        };
        match slot {
            2 => (nic.driver, nic.class_devices) = (None, Vec::new()),
            3 => nic.group = None,
            _ => {}
        }
        [port, nic]
    });
    Tree::of(directory, nics.as_flattened()).unwrap()
}

const REFUSALS: &[Refusal] = &[
    // More than TotalVFs.
    Refusal {
        damage: Damage::None,
        arguments: &["vf", "create", "01:00.0", "9", "--dry-run"],
        code: FAILED,
        says: &["0000:01:00.0", "sriov_numvfs", "9", "8"],
    },
    // A PF without a driver has nobody to enable VFs.
    Refusal {
        damage: Damage::None,
        arguments: &["vf", "create", "02:00.0", "2", "--dry-run"],
        code: FAILED,
        says: &["0000:02:00.0", "driver"],
    },
    // Nothing would keep the guest from the host's memory.
    Refusal {
        damage: Damage::None,
        arguments: &["vf", "create", "03:00.0", "2", "--driver", "vfio-pci", "--dry-run"],
        code: FAILED,
        says: &["0000:03:00.0", "IOMMU"],
    },
    Refusal {
        damage: Damage::None,
        arguments: &["plan", "bind", "03:00.0", "--driver", "vfio-pci"],
        code: FAILED,
        says: &["0000:03:00.0", "IOMMU"],
    },
    // A function that is no PF.
    Refusal {
        damage: Damage::None,
        arguments: &["vf", "create", "00:01.0", "1", "--dry-run"],
        code: FAILED,
        says: &["0000:00:01.0", "no virtual functions"],
    },
    // A driver that is not loaded.
    Refusal {
        damage: Damage::None,
        arguments: &["bind", "01:00.0", "--driver", "vfio_pci", "--dry-run"],
        code: FAILED,
        says: &["vfio_pci", "did you mean vfio-pci?"],
    },
    // Selectors.
    Refusal {
        damage: Damage::None,
        arguments: &["show", "ens4"],
        code: NO_MATCH,
        says: &["ens4", "did you mean ens1"],
    },
    Refusal {
        damage: Damage::None,
        arguments: &["unbind", "7f:1f.7", "--dry-run"],
        code: NO_MATCH,
        says: &["7f:1f.7"],
    },
    Refusal {
        damage: Damage::None,
        arguments: &["unbind", "01:00.0", "7f:1f.7", "--dry-run"],
        code: PARTIAL_MATCH,
        says: &["7f:1f.7", "nothing was changed"],
    },
    // A captured machine cannot be changed.
    Refusal {
        damage: Damage::None,
        arguments: &["vf", "create", "01:00.0", "1"],
        code: USAGE,
        says: &["--dry-run"],
    },
    // Files that are not as the kernel makes them.
    Refusal {
        damage: Damage::Removed("sriov_totalvfs"),
        arguments: &["vf", "create", "01:00.0", "1", "--dry-run"],
        code: FAILED,
        says: &["0000:01:00.0", "no virtual functions"],
    },
    Refusal {
        damage: Damage::Fifo("sriov_totalvfs"),
        arguments: &["vf", "create", "01:00.0", "1", "--dry-run"],
        code: FAILED,
        says: &["0000:01:00.0", "sriov_totalvfs"],
    },
    Refusal {
        damage: Damage::Fifo("driver_override"),
        arguments: &["bind", "01:00.0", "--driver", "vfio-pci", "--dry-run"],
        code: FAILED,
        says: &["0000:01:00.0", "driver_override"],
    },
    Refusal {
        damage: Damage::Text("sriov_totalvfs", "many\n"),
        arguments: &["vf", "create", "01:00.0", "1", "--dry-run"],
        code: FAILED,
        says: &["0000:01:00.0", "sriov_totalvfs", "many"],
    },
    Refusal {
        damage: Damage::Fifo("driver"),
        arguments: &["bind", "01:00.0", "--driver", "vfio-pci", "--dry-run"],
        code: FAILED,
        says: &["0000:01:00.0", "driver"],
    },
];

impl Damage {
    fn strike(&self, tree: &Tree) {
        let file = |name| tree.root().join(tree.file("01:00.0".parse().unwrap(), name));
        match self {
            Self::None => {}
            Self::Removed(name) => remove_file(file(name)).unwrap(),
            Self::Fifo(name) => {
                remove_file(file(name)).unwrap();
                mknodat(CWD, file(name), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            }
            Self::Text(name, text) => {
                let path = tree.file("01:00.0".parse().unwrap(), name);
                tree.write(path, text).unwrap();
            }
        }
    }
}

#[test]
fn every_refusal_has_its_exit_code_says_why_and_leaves_no_trace() {
    let mut wrong = Vec::new();
    for refusal in REFUSALS {
        let directory = tempfile::tempdir().unwrap();
        let tree = machine(directory.path());
        refusal.damage.strike(&tree);
        let before = contents(tree.root());
        let ran = sriovctl(refusal.arguments, Some(tree.root()));
        let says_all = refusal.says.iter().all(|words| ran.stderr.contains(words));
        if ran.code != Some(refusal.code) || !says_all || !ran.stdout.is_empty() {
            wrong.push(format!("{:?}: {ran:#?}", refusal.arguments));
        }
        assert!(
            contents(tree.root()) == before,
            "{:?} changed the machine",
            refusal.arguments
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Everything in a directory: where links lead and what files hold.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let content = if kind.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                path.read_link().unwrap().into_os_string().into_encoded_bytes()
            } else if kind.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                format!("{kind:?}").into_bytes()
            };
            found.insert(path, content);
        }
    }
    found
}
