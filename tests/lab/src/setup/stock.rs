//! Debian's own kernel, unpacked: nothing to compile, but type1 only (Debian builds no iommufd).

use super::Setup;
use super::apt::Apt;
use crate::cache::key;
use crate::{Flavour, Kernel};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize, Deserialize)]
struct Stock {
    image: PathBuf,
    modules: PathBuf,
}

/// The kernel in the cache.
pub(super) fn present(setup: &Setup) -> Option<Kernel> {
    setup
        .record::<Stock>("stock.json")
        .filter(|stock| stock.image.exists())
        .map(Stock::kernel)
}

/// Fetches the newest one.
pub(super) fn fetch(setup: &Setup) -> Result<Kernel> {
    setup.refuse_offline("the stock kernel")?;
    let apt = Apt::prepare(setup)?;
    // The metapackage leads to the image and its modules, in one package or in two.
    let is_kernel = |name: &str| {
        ["linux-image-", "linux-binary-", "linux-modules-"]
            .iter()
            .any(|prefix| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
    };
    let packages: Vec<_> = apt
        .closure("linux-image-amd64")?
        .into_iter()
        .filter(|(name, _)| is_kernel(name))
        .collect();
    let names: Vec<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
    let versions: Vec<String> = packages
        .iter()
        .map(|(name, version)| format!("{name}={version}"))
        .collect();
    let entry = format!(
        "kernel-stock-{}",
        key(&versions.iter().map(String::as_str).collect::<Vec<_>>())
    );
    let what = format!("fetch Debian's kernel ({})", names.join(", "));
    let dir = setup
        .progress
        .step(&what, None, "check the network; the log has apt's words", |step| {
            setup.cache.make(&entry, |dir| apt.unpack(step, &packages, dir))
        })?;
    let stock = find(&dir).with_context(|| format!("no kernel image and modules in {}", dir.display()))?;
    setup.cache.set_record("stock.json", &stock)?;
    Ok(stock.kernel())
}

impl Stock {
    fn kernel(self) -> Kernel {
        Kernel {
            flavour: Flavour::Stock,
            image: self.image,
            modules: Some(self.modules),
        }
    }
}

fn find(dir: &Path) -> Option<Stock> {
    let release = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|modules| dir.join(modules).read_dir().ok()?.flatten().next())?;
    let boot = dir
        .join("boot")
        .join(format!("vmlinuz-{}", release.file_name().to_string_lossy()));
    let image = [release.path().join("vmlinuz"), boot]
        .into_iter()
        .find(|path| path.exists())?;
    Some(Stock {
        image,
        modules: release.path().join("kernel"),
    })
}
