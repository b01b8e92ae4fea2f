//! One module per command of `cargo lab`.

pub(crate) mod bench;
pub(crate) mod conformance;
pub(crate) mod demo;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod shell;
pub(crate) mod test;

use anyhow::Result;
use lab::{Cache, Flavour, Kernel, Machine, Qemu, Setup, Vm};
use lab_init::Exec;
use std::path::{Path, PathBuf};

/// Says a line to the user.
#[expect(clippy::print_stderr, reason = "standard error is where the lab talks")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// QEMU and the kernel that was asked for, or the default one.
pub(crate) fn parts(kernel: Option<Flavour>, offline: bool) -> Result<(Qemu, Kernel)> {
    let setup = Setup::new(Cache::of_user()?, offline, false)?;
    let flavour = kernel.unwrap_or(if setup.has_full_kernel() {
        Flavour::Full
    } else {
        Flavour::Stock
    });
    if !offline && flavour != Flavour::Host && setup.is_first_run() {
        say("lab: the first run fetches QEMU and a kernel into the cache; later runs start at once");
    }
    Ok((setup.qemu()?, setup.kernel(flavour)?))
}

/// Boots and says how that went.
pub(crate) fn boot(qemu: &Qemu, kernel: &Kernel, machine: &Machine) -> Result<Vm> {
    let vm = Vm::boot(qemu, kernel, machine, false)?;
    let seconds = vm.booted_in().as_secs_f64();
    say(&format!(
        "lab: QEMU {}, {} kernel {}, up in {seconds:.1} s",
        qemu.version,
        kernel.flavour,
        vm.kernel_release()
    ));
    for problem in vm.problems() {
        say(&format!("lab: while coming up: {problem}"));
    }
    Ok(vm)
}

/// A command in the lab with this process's working directory and a plain environment. On the path: our programs and the lab's
/// QEMU. `LAB_KERNEL` names the kernel's image, for tests that boot a guest; `LAB_TIMES` is passed on to those that repeat something.
pub(crate) fn exec(qemu: &Qemu, kernel: &Kernel, programs: &Path, argv: Vec<String>) -> Exec {
    let system = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(PathBuf::from);
    let qemu = qemu
        .program
        .parent()
        .filter(|dir| dir.is_absolute())
        .map(Path::to_path_buf);
    let path = std::iter::once(programs.to_path_buf()).chain(qemu).chain(system);
    let path = path
        .map(|dir| dir.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(":");
    let pass = ["TERM", "LANG", "RUST_BACKTRACE", "NO_COLOR", "LAB_TIMES"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let mut env: Vec<(String, String)> = pass.collect();
    env.extend([
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), "/root".to_owned()),
        ("LAB".to_owned(), kernel.flavour.to_string()),
        ("LAB_KERNEL".to_owned(), kernel.image.display().to_string()),
    ]);
    let cwd = std::env::current_dir().map_or_else(|_| "/".to_owned(), |dir| dir.to_string_lossy().into_owned());
    Exec {
        argv,
        env,
        cwd,
        interactive: false,
    }
}
