//! One module per command of `cargo lab`.

pub(crate) mod demo;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod shell;
pub(crate) mod test;

use anyhow::Result;
use lab::{Cache, Flavour, Kernel, Machine, Qemu, Setup, Vm};
use lab_init::Exec;
use std::path::PathBuf;

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

/// A command in the lab with this process's working directory and a plain environment in which our programs and the lab's QEMU
/// are on the path.
pub(crate) fn exec(qemu: &Qemu, argv: Vec<String>) -> Exec {
    let mut path = vec![
        std::env::current_exe()
            .ok()
            .and_then(|program| Some(program.parent()?.to_path_buf())),
    ];
    path.push(qemu.program.parent().map(PathBuf::from).filter(|dir| dir.is_absolute()));
    let system = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(|dir| Some(dir.into()));
    path.extend(system);
    let path: Vec<String> = path
        .into_iter()
        .flatten()
        .map(|dir: PathBuf| dir.to_string_lossy().into_owned())
        .collect();
    let pass = ["TERM", "LANG", "RUST_BACKTRACE", "NO_COLOR"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let mut env: Vec<(String, String)> = pass.collect();
    env.extend([
        ("PATH".to_owned(), path.join(":")),
        ("HOME".to_owned(), "/root".to_owned()),
        ("LAB".to_owned(), "1".to_owned()),
    ]);
    let cwd = std::env::current_dir().map_or_else(|_| "/".to_owned(), |dir| dir.to_string_lossy().into_owned());
    Exec {
        argv,
        env,
        cwd,
        interactive: false,
    }
}
