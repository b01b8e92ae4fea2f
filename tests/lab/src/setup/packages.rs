//! Packages of the host that the lab needs: checks, installs where it may, and says what to install where it may not.

use super::Setup;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// Something that a package brings.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    /// A program on the path.
    Program(&'static str),
    /// A C header.
    Header(&'static str),
}

/// A need and the Debian package that fills it.
pub(super) type Requirement = (Need, &'static str);

/// To build a kernel.
pub(super) const KERNEL_BUILD: &[Requirement] = &[
    (Need::Program("make"), "make"),
    (Need::Program("gcc"), "gcc"),
    (Need::Program("flex"), "flex"),
    (Need::Program("bison"), "bison"),
    (Need::Program("bc"), "bc"),
    (Need::Program("perl"), "perl"),
    (Need::Program("xz"), "xz-utils"),
    (Need::Program("tar"), "tar"),
    (Need::Header("libelf.h"), "libelf-dev"),
];

/// To build the kernel's own test suites, besides what the kernel itself needs.
pub(super) const SUITES: &[Requirement] = &[
    (Need::Header("uuid/uuid.h"), "uuid-dev"),
    (Need::Header("sys/capability.h"), "libcap-dev"),
];

/// To read a packaged kernel's modules.
pub(super) const MODULES: &[Requirement] = &[(Need::Program("xz"), "xz-utils")];

/// To compare our results with those of others, to make file systems in the lab, and to see which system calls a program makes.
pub(super) const TESTS: &[Requirement] = &[
    (Need::Program("lspci"), "pciutils"),
    (Need::Program("valgrind"), "valgrind"),
    (Need::Program("mke2fs"), "e2fsprogs"),
    (Need::Program("setsid"), "util-linux"),
    (Need::Program("strace"), "strace"),
];

/// To compare our speed with that of others.
pub(super) const BENCHES: &[Requirement] = &[
    (Need::Program("lspci"), "pciutils"),
    (Need::Program("valgrind"), "valgrind"),
    (Need::Program("driverctl"), "driverctl"),
    (Need::Program("dpdk-devbind.py"), "dpdk"),
    (Need::Program("dpdk-testpmd"), "dpdk-dev"),
    (Need::Program("fio"), "fio"),
    (Need::Program("qemu-img"), "qemu-utils"),
];

/// To fetch packages without installing them.
pub(super) const FETCH: &[Requirement] = &[(Need::Program("apt-get"), "apt"), (Need::Program("dpkg-deb"), "dpkg")];

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Program(name) => on_path(name),
            Self::Header(name) => {
                Path::new("/usr/include").join(name).exists() || Path::new("/usr/local/include").join(name).exists()
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Program(name) | Self::Header(name) => name,
        }
    }
}

pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Sees that all requirements are met; installs what is missing on Debian when run as root or with sudo.
pub(super) fn require(setup: &Setup, requirements: &[Requirement], what_for: &str) -> Result<()> {
    let missing: Vec<&Requirement> = requirements.iter().filter(|(need, _)| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    let what: Vec<&str> = missing.iter().map(|(need, _)| need.name()).collect();
    let list = format!(
        "{what_for} needs {} which this machine lacks\n  fix      Debian, Ubuntu: apt-get install {}\n           elsewhere: the packages that bring {}",
        what.join(", "),
        packages.join(" "),
        what.join(", ")
    );
    let root = rustix::process::geteuid().is_root();
    if setup.offline || !on_path("apt-get") || !(root || on_path("sudo")) {
        bail!("{list}");
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            // No prompt: where sudo wants a password, the error says what to install.
            command.args(["-n", "apt-get"]);
        }
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    };
    setup
        .progress
        .step(&format!("install {}", packages.join(" ")), None, &list, |step| {
            step.run(&mut apt(&["-q", "update"]))?;
            let mut arguments = vec!["-q", "-y", "--no-install-recommends", "install"];
            arguments.extend(&packages);
            step.run(&mut apt(&arguments))
        })
}
