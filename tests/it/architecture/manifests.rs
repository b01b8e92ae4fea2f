//! Rules about the packages: who may use whom, what each inherits from the workspace, what lies at the top.

use super::{assert_none, finding, workspace};
use cargo_metadata::semver::{Version, VersionReq};
use cargo_metadata::{DependencyKind, MetadataCommand};
use std::fs::read_dir;

/// Each crate with the crates that it may use. Programs and tests may use all.
const EDGES: [(&str, Option<&[&str]>); 12] = [
    ("pci", Some(&[])),
    ("vfio-core", Some(&["pci"])),
    ("iommu", Some(&["pci", "vfio-core"])),
    ("sriov", Some(&["pci", "vfio-core", "iommu"])),
    ("drivers", Some(&["pci", "vfio-core", "iommu"])),
    ("vmm-glue", Some(&["pci", "vfio-core", "iommu"])),
    ("sriovctl", None),
    ("system-tests", None),
    ("lab", None),
    ("lab-init", None),
    ("benches", None),
    ("raw-calls", Some(&["vfio-core"])),
];

/// Crates of others that only these of ours may use: what does not belong into libraries, and ways into the kernel. Examples are
/// programs.
const RESERVED: [(&[&str], &[&str]); 6] = [
    (PROGRAMS, &["sriovctl", "system-tests", "lab", "lab-init", "benches"]),
    (
        &["rustix"],
        &[
            "pci",
            "vfio-core",
            "sriov",
            "sriovctl",
            "system-tests",
            "lab",
            "lab-init",
            "benches",
            "raw-calls",
        ],
    ),
    (
        &["vfio-bindings", "iommufd-bindings"],
        &["vfio-core", "vmm-glue", "raw-calls"],
    ),
    (&["libc", "nix", "memmap", "memmap2"], &["vfio-core", "vmm-glue"]),
    (&["vfio-ioctls", "iommufd-ioctls"], &["vmm-glue", "raw-calls"]),
    (&["vm-memory", "kvm-bindings", "kvm-ioctls"], &["vmm-glue"]),
];

/// Crates for programs.
const PROGRAMS: &[&str] = &["anyhow", "clap"];

/// One package of the workspace.
struct Manifest {
    /// From the root of the workspace.
    path: String,
    text: String,
    name: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    requirement: VersionReq,
    /// For tests and examples.
    is_development: bool,
}

impl Manifest {
    fn sample(name: &str, text: &str, dependencies: &[(&str, &str)]) -> Self {
        let dependency = |(name, requirement): &(&str, &str)| Dependency {
            name: (*name).to_owned(),
            requirement: requirement.parse().unwrap(),
            is_development: false,
        };
        Self {
            path: format!("{name}/Cargo.toml"),
            text: text.to_owned(),
            name: name.to_owned(),
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    fn finding(&self, about: &Dependency, says: &str) -> String {
        let line = self.text.lines().position(|line| line.starts_with(&about.name));
        finding(&self.path, line.unwrap_or(0) + 1, says)
    }
}

/// All packages, as cargo understands them. Dependencies of tests and builds count.
fn manifests() -> Vec<Manifest> {
    let root = workspace();
    let mut command = MetadataCommand::new();
    let metadata = command.manifest_path(root.join("Cargo.toml")).no_deps().exec().unwrap();
    let packages = metadata.packages.into_iter();
    let manifests = packages.map(|package| {
        // A crate may ask for features of its own in its tests.
        let is_own = |name: &str, kind| name == package.name.as_str() && kind == DependencyKind::Development;
        let dependencies = package
            .dependencies
            .iter()
            .filter(|used| !is_own(&used.name, used.kind));
        Manifest {
            path: package.manifest_path.strip_prefix(&root).unwrap().to_string(),
            text: read(package.manifest_path.as_std_path()),
            name: package.name.to_string(),
            dependencies: dependencies
                .map(|used| Dependency {
                    name: used.name.clone(),
                    requirement: used.req.clone(),
                    is_development: used.kind == DependencyKind::Development,
                })
                .collect(),
        }
    });
    manifests.collect()
}

#[expect(clippy::disallowed_methods, reason = "manifests are no system files")]
fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Uses of a crate of ours that the architecture does not have.
fn strange_edges(manifest: &Manifest) -> Vec<String> {
    let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == manifest.name) else {
        let says = format!("{} is not a crate of the architecture", manifest.name);
        return vec![finding(&manifest.path, 1, &says)];
    };
    let Some(allowed) = allowed else {
        return Vec::new();
    };
    let is_ours = |used: &&Dependency| EDGES.iter().any(|(name, _)| *name == used.name);
    let ours = manifest.dependencies.iter().filter(is_ours);
    ours.filter(|used| !allowed.contains(&used.name.as_str()))
        .map(|used| manifest.finding(used, &format!("{} may not use {}", manifest.name, used.name)))
        .collect()
}

#[test]
fn crates_use_one_another_only_as_the_architecture_has_it() {
    let edges = |name, used| strange_edges(&Manifest::sample(name, "", &[(used, "*")]));
    assert!(!edges("pci", "sriov").is_empty());
    assert!(!edges("vfio-core", "iommu").is_empty());
    assert!(!edges("sriov", "drivers").is_empty());
    assert!(!edges("drivers", "system-tests").is_empty());
    assert!(!edges("helpers", "pci").is_empty());
    assert!(edges("drivers", "iommu").is_empty() && edges("sriovctl", "vmm-glue").is_empty());
    let located = Manifest::sample("pci", "[dependencies]\nsriov.workspace = true\n", &[("sriov", "*")]);
    assert_eq!(strange_edges(&located), ["pci/Cargo.toml:2: pci may not use sriov"]);

    let manifests = manifests();
    assert_eq!(manifests.len(), EDGES.len());
    assert_none(&manifests.iter().flat_map(strange_edges).collect::<Vec<_>>());
}

/// Uses of reserved crates by others.
fn strange_dependencies(manifest: &Manifest) -> Vec<String> {
    let mut findings = Vec::new();
    for used in &manifest.dependencies {
        let is_reserved = |(crates, _): &&(&[&str], &[&str])| crates.contains(&used.name.as_str());
        let is_of_an_example = used.is_development && PROGRAMS.contains(&used.name.as_str());
        if let Some((_, users)) = RESERVED.iter().find(is_reserved)
            && !is_of_an_example
            && !users.contains(&manifest.name.as_str())
        {
            findings.push(manifest.finding(used, &format!("{} is only for {}", used.name, users.join(", "))));
        }
    }
    findings
}

#[test]
fn ways_into_the_kernel_and_crates_for_programs_have_few_users() {
    let uses = |name, used| strange_dependencies(&Manifest::sample(name, "", &[(used, "*")]));
    assert!(!uses("sriov", "anyhow").is_empty());
    assert!(!uses("drivers", "rustix").is_empty());
    assert!(!uses("sriov", "libc").is_empty());
    assert!(!uses("vfio-core", "vm-memory").is_empty());
    assert!(!uses("benches", "vfio-ioctls").is_empty());
    assert!(uses("lab", "anyhow").is_empty() && uses("pci", "serde").is_empty());
    assert_none(&manifests().iter().flat_map(strange_dependencies).collect::<Vec<_>>());
}

/// What a package does not take from the workspace.
fn not_inherited(manifest: &Manifest) -> Vec<String> {
    let wanted = [
        "edition.workspace = true\n",
        "rust-version.workspace = true\n",
        "[lints]\nworkspace = true\n",
    ];
    let missing = wanted.iter().filter(|line| !manifest.text.contains(*line));
    missing
        .map(|lines| finding(&manifest.path, 1, &format!("lacks {lines:?}")))
        .collect()
}

#[test]
fn every_package_inherits_edition_toolchain_and_lints() {
    let good = "edition.workspace = true\nrust-version.workspace = true\n\n[lints]\nworkspace = true\n";
    let check = |text: &str| not_inherited(&Manifest::sample("pci", text, &[]));
    assert!(check(good).is_empty());
    assert_eq!(
        check(&good.replace("edition.workspace = true", "edition = \"2021\"")).len(),
        1
    );
    assert_eq!(check(&good.replace("[lints]\n", "[lints.rust]\n")).len(), 1);
    assert_none(&manifests().iter().flat_map(not_inherited).collect::<Vec<_>>());
}

/// Dependencies for which the lock file has no version that fits.
fn not_locked(manifest: &Manifest, lock: &str) -> Vec<String> {
    let packages: Vec<(&str, Version)> = lock
        .split("[[package]]\n")
        .filter_map(|package| {
            let value = |key: &str| {
                package
                    .lines()
                    .find_map(|line| line.strip_prefix(key)?.strip_suffix('"'))
            };
            Some((value("name = \"")?, value("version = \"")?.parse().ok()?))
        })
        .collect();
    let is_locked = |used: &&Dependency| {
        let fits = |(name, version): &(&str, Version)| *name == used.name && used.requirement.matches(version);
        packages.iter().any(fits)
    };
    let missing = manifest.dependencies.iter().filter(|used| !is_locked(used));
    missing
        .map(|used| manifest.finding(used, &format!("Cargo.lock has no {} {}", used.name, used.requirement)))
        .collect()
}

#[test]
fn the_lock_file_has_a_version_of_every_dependency() {
    let lock = "version = 4\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n";
    let check = |used| not_locked(&Manifest::sample("pci", "", &[used]), lock);
    assert!(check(("serde", "^1.0")).is_empty());
    assert!(!check(("serde", "^2.0")).is_empty());
    assert!(!check(("serde_json", "^1.0")).is_empty());
    let lock = read(&workspace().join("Cargo.lock"));
    let findings = manifests()
        .into_iter()
        .flat_map(|manifest| not_locked(&manifest, &lock));
    assert_none(&findings.collect::<Vec<_>>());
}

/// Folders that do not belong at the top: neither ours nor hidden nor cargo's.
fn strange_folders(names: &[String]) -> Vec<String> {
    const OURS: [&str; 9] = [
        "benches",
        "drivers",
        "iommu",
        "pci",
        "sriov",
        "target",
        "tests",
        "vfio-core",
        "vmm-glue",
    ];
    let strange = names
        .iter()
        .filter(|name| !name.starts_with('.') && !OURS.contains(&name.as_str()));
    strange
        .map(|name| {
            finding(
                name,
                1,
                "no other folder at the top: put it into the crate that it belongs to",
            )
        })
        .collect()
}

#[test]
fn the_top_holds_only_the_folders_of_the_architecture() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(strange_folders(&names(&["pci", ".git", "target", "utils"])).len(), 1);
    let entries = read_dir(workspace()).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let folders: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(folders.len() >= 8);
    assert_none(&strange_folders(&folders));
}
