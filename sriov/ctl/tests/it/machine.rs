//! A captured machine, and the program run on it.

use pci::Bdf;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use system_tests::tree::{ClassNode, Node, Port, Tree};
use tempfile::TempDir;

/// A machine: a NIC with VFs that are held, free, spoiled, native and unbound; a drive with `/` on it behind a switch; a
/// console; a function with malformed files.
pub(crate) struct Machine {
    directory: TempDir,
    pub(crate) tree: Tree,
}

pub(crate) fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

impl Machine {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::of(directory.path(), &nodes()).unwrap();
        let machine = Self { directory, tree };
        machine.processes();
        machine.uses();
        machine
    }

    /// A machine without the process that holds a VF.
    pub(crate) fn without_holder() -> Self {
        let machine = Self::new();
        std::fs::remove_dir_all(machine.root().join("proc/4711")).unwrap();
        machine
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        self.tree.write(path, content).unwrap();
    }

    /// The program on this machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.env("SRIOVCTL_SYSROOT", self.root()).args(arguments);
        command.arg("--state-dir").arg(self.root().join("state"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let root = self.root().to_str().unwrap();
        let mut ran = Ran::from(self.command(arguments).output().unwrap());
        ran.stdout = ran.stdout.replace(root, "ROOT");
        ran.stderr = ran.stderr.replace(root, "ROOT");
        ran
    }

    /// A QEMU process that holds VF 0 through its group.
    fn processes(&self) {
        self.write("proc/1/comm", "init\n");
        std::fs::create_dir_all(self.root().join("proc/1/fd")).unwrap();
        self.write("proc/4711/comm", "qemu-system-x86\n");
        self.write("proc/4711/cmdline", "qemu-system-x86_64\0-nodefaults\0");
        let fds = self.root().join("proc/4711/fd");
        std::fs::create_dir_all(&fds).unwrap();
        for (fd, target) in [
            ("9", "/dev/vfio/vfio"),
            ("12", "/dev/vfio/20"),
            ("13", "anon_inode:[vfio-device]"),
        ] {
            symlink(target, fds.join(fd)).unwrap();
        }
        let syspath = self.tree.file(bdf("01:01.0"), "");
        let info = format!(
            "pos:\t0\nvfio-device-syspath: /{}\n",
            syspath.to_str().unwrap().trim_end_matches('/')
        );
        self.write("proc/4711/fdinfo/13", &info);
    }

    /// The root file system on the drive, the default route over the NIC.
    fn uses(&self) {
        let drive = self.tree.file(bdf("04:00.0"), "nvme/nvme0/nvme0n1/dev");
        self.tree.write(drive, "259:0\n").unwrap();
        self.write("proc/1/mountinfo", "22 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
        self.write("proc/self/mountinfo", "22 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
        self.write("proc/self/mounts", "/dev/nvme0n1 / ext4 rw 0 0\n");
        self.write("proc/mounts", "/dev/nvme0n1 / ext4 rw 0 0\n");
        self.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        self.write("proc/self/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        let heading = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let default = "ens1f0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        for place in ["proc/net", "proc/self/net", "proc/1/net"] {
            self.write(&format!("{place}/route"), &format!("{heading}{default}"));
            self.write(&format!("{place}/ipv6_route"), "");
        }
        for name in ["ens1f0", "ens1f0v3"] {
            self.write(&format!("sys/class/net/{name}/flags"), "0x1003\n");
        }
    }
}

fn nodes() -> Vec<Node> {
    let port = Node::port(bdf("00:01.0"), None, 1, 1);
    let nic = Node {
        group: Some(10),
        numa_node: 0,
        is_multifunction: false,
        ..Node::nic(bdf("01:00.0"), port.bdf, "ens1f0").with_room_for(8, 8, 0x1889)
    };
    let vf = |index: u16, group: u32, driver: Option<&str>, device: Option<(&str, &'static str)>| Node {
        group: Some(group),
        driver: driver.map(str::to_owned),
        class_devices: device
            .map(|(path, class)| ClassNode {
                path: path.to_owned(),
                class,
            })
            .into_iter()
            .collect(),
        ..nic.vf(index).unwrap()
    };
    let vfs = [
        vf(0, 20, Some("vfio-pci"), Some(("vfio-dev/vfio0", "vfio-dev"))),
        vf(1, 21, Some("vfio-pci"), Some(("vfio-dev/vfio1", "vfio-dev"))),
        vf(2, 22, Some("vfio-pci"), Some(("vfio-dev/vfio2", "vfio-dev"))),
        vf(3, 22, Some("iavf"), Some(("net/ens1f0v3", "net"))),
        vf(4, 24, None, None),
    ];
    let slot = Node::port(bdf("00:02.0"), None, 2, 4);
    let upstream = Node {
        port: Port::Upstream,
        acs: None,
        ..Node::port(bdf("02:00.0"), Some(slot.bdf), 3, 4)
    };
    let downstream = Node {
        acs: None,
        ..Node::port(bdf("03:00.0"), Some(upstream.bdf), 4, 4)
    };
    let drive = Node {
        group: Some(30),
        ..Node::nvme(bdf("04:00.0"), downstream.bdf, 0)
    };
    let other_segment = Node::new(bdf("10000:e0:01.0"), None, (0x1234, 0x1111), 0x03_0000);
    let mut nodes = vec![port, nic];
    nodes.extend(vfs);
    nodes.extend([slot, upstream, downstream, drive, other_segment]);
    nodes
}

/// The program without anything from the environment of the test run.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sriovctl"));
    command
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    command
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Ran {
    /// Both streams and the exit code, for a snapshot.
    pub(crate) fn all(&self) -> String {
        let Self { code, stdout, stderr } = self;
        format!("exit {}\n--- stdout\n{stdout}--- stderr\n{stderr}", code.unwrap_or(-1))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
