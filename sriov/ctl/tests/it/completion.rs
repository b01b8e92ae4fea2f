//! Completion: the script, and the candidates that the program gives it.

use crate::machine::{Machine, Ran};

/// What bash would offer for the last of `words`.
fn candidates(machine: &Machine, words: &[&str]) -> Vec<String> {
    let mut command = machine.command(&[]);
    command
        .env("SRIOVCTL_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    command
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "false");
    // The arguments of Machine::command are not those of a completion.
    let mut bare = std::process::Command::new(command.get_program());
    bare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .arg("--")
        .args(words);
    Ran::from(bare.output().unwrap())
        .stdout
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn functions_are_completed_by_address_and_interface() {
    let machine = Machine::new();
    assert_eq!(candidates(&machine, &["sriovctl", "show", "ens1f0v"]), ["ens1f0v3"]);
    assert_eq!(candidates(&machine, &["sriovctl", "show", "0000:04"]), ["0000:04:00.0"]);
    assert_eq!(
        candidates(&machine, &["sriovctl", "tree", "pf:ens1f0"]),
        ["pf:ens1f0", "pf:ens1f0v3"]
    );
}

#[test]
fn only_pfs_are_offered_for_a_pf_and_only_drivers_for_a_driver() {
    let machine = Machine::new();
    let pfs = candidates(&machine, &["sriovctl", "vf", "create", ""]);
    assert!(
        pfs.contains(&"0000:01:00.0".to_owned()) && pfs.contains(&"ens1f0".to_owned()),
        "{pfs:?}"
    );
    assert!(!pfs.contains(&"0000:04:00.0".to_owned()), "{pfs:?}");
    let drivers = candidates(&machine, &["sriovctl", "bind", "01:01.4", "--driver", "v"]);
    assert_eq!(drivers, ["vfio-pci"]);
}

#[test]
fn columns_are_completed_after_a_comma() {
    let machine = Machine::new();
    assert_eq!(
        candidates(&machine, &["sriovctl", "list", "-o", "bdf,num"]),
        ["bdf,numa"]
    );
}

#[test]
fn every_shell_has_a_script() {
    let machine = Machine::new();
    for shell in ["bash", "elvish", "fish", "zsh"] {
        let ran = machine.run(&["completion", shell]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("SRIOVCTL_COMPLETE"), "{shell}");
    }
}
