//! Brings what the lab needs: QEMU, kernels, and the packages to build one.

mod apt;
mod full;
mod packages;
mod qemu;
mod source;
mod stock;
mod suites;

use crate::{Cache, Flavour, Kernel, Progress};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

pub use qemu::Qemu;

/// Brings parts of the lab into a cache. What is there already costs nothing.
#[derive(Debug)]
pub struct Setup {
    cache: Cache,
    progress: Progress,
    offline: bool,
    update: bool,
}

impl Setup {
    /// Works in `cache`; `offline` fetches nothing; `update` looks for newer packages.
    ///
    /// # Errors
    /// When the directory for logs cannot be created, or on a machine that is not x86-64.
    pub fn new(cache: Cache, offline: bool, update: bool) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            bail!(
                "the lab's kernels and its nested KVM are x86-64; this machine is {}",
                std::env::consts::ARCH
            );
        }
        let progress = Progress::new(cache.path("logs"))?;
        Ok(Self {
            cache,
            progress,
            offline,
            update,
        })
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// For steps of the caller's own.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// A QEMU that is new enough.
    ///
    /// # Errors
    /// When there is none and none can be fetched.
    pub fn qemu(&self) -> Result<Qemu> {
        if let Some(qemu) = qemu::present(self) {
            return Ok(qemu);
        }
        let _lock = self.lock()?;
        // Another process may have brought it while this one waited.
        qemu::present(self).map_or_else(|| qemu::fetch(self), Ok)
    }

    /// A kernel of that flavour.
    ///
    /// # Errors
    /// When it is not there and cannot be fetched or built.
    pub fn kernel(&self, flavour: Flavour) -> Result<Kernel> {
        let present = || match flavour {
            Flavour::Stock => stock::present(self),
            Flavour::Full => full::present(self),
            Flavour::Host => None,
        };
        if flavour != Flavour::Full {
            packages::require(self, packages::MODULES, "reading a kernel's modules")?;
        }
        if let Some(kernel) = present() {
            return Ok(kernel);
        }
        let _lock = self.lock()?;
        // Another process may have brought it while this one waited.
        if let Some(kernel) = present() {
            return Ok(kernel);
        }
        match flavour {
            Flavour::Stock => stock::fetch(self),
            Flavour::Full => full::build(self),
            Flavour::Host => host_kernel(),
        }
    }

    /// The directory with the kernel's own test programs for VFIO and iommufd, built from the source of the `full` kernel, which
    /// has to be there.
    ///
    /// # Errors
    /// When they are not there and cannot be built.
    pub fn suites(&self) -> Result<PathBuf> {
        if let Some(dir) = suites::present(self) {
            return Ok(dir);
        }
        let _lock = self.lock()?;
        // Another process may have built them while this one waited.
        suites::present(self).map_or_else(|| suites::build(self), Ok)
    }

    /// Whether the `full` kernel is there, built from what this version of the lab asks for.
    #[must_use]
    pub fn has_full_kernel(&self) -> bool {
        full::present(self).is_some()
    }

    /// Whether the cache holds no QEMU yet.
    #[must_use]
    pub fn is_first_run(&self) -> bool {
        qemu::present(self).is_none()
    }

    /// Programs that tests compare with; without them the tests that need them are skipped.
    ///
    /// # Errors
    /// When they are missing and cannot be installed.
    pub fn test_tools(&self) -> Result<()> {
        packages::require(self, packages::TESTS, "testing")
    }

    /// Programs that benchmarks compare with.
    ///
    /// # Errors
    /// When they are missing and cannot be installed.
    pub fn bench_tools(&self) -> Result<()> {
        packages::require(self, packages::BENCHES, "comparing")
    }

    /// What the cache remembers, unless newer packages are wanted.
    fn record<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        if self.update { None } else { self.cache.record(name) }
    }

    fn lock(&self) -> Result<std::fs::File> {
        self.cache
            .lock(|| crate::progress::say("waiting: another process is setting the lab up in the same cache"))
    }

    fn refuse_offline(&self, what: &str) -> Result<()> {
        if self.offline {
            let cache = self.cache.path("");
            bail!(
                "{what} is not in the cache ({}), and --offline forbids to fetch it\n  fix      run the same command once without --offline, or cargo lab setup where there is a network and copy that directory here",
                cache.display()
            );
        }
        Ok(())
    }
}

/// The running machine's own kernel.
fn host_kernel() -> Result<Kernel> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let candidates = [
        format!("/boot/vmlinuz-{release}"),
        format!("/usr/lib/modules/{release}/vmlinuz"),
        format!("/lib/modules/{release}/vmlinuz"),
    ];
    let readable = |path: &&String| std::fs::File::open(path).is_ok();
    let image = candidates.iter().find(readable).map(PathBuf::from).with_context(|| {
        format!("no readable image of the running kernel {release} (looked at {})\n  fix      use --kernel stock or --kernel full, or make the image readable", candidates.join(", "))
    })?;
    let modules = Path::new("/lib/modules").join(&release).join("kernel");
    Ok(Kernel {
        flavour: Flavour::Host,
        image,
        modules: modules.is_dir().then_some(modules),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_network_it_is_said_what_is_missing_and_where_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let setup = |offline| Setup::new(Cache::at(dir.path().join("cache")).unwrap(), offline, false).unwrap();
        let error = setup(true).refuse_offline("QEMU").unwrap_err().to_string();
        for part in [
            "QEMU is not in the cache",
            dir.path().to_str().unwrap(),
            "without --offline",
            "cargo lab setup",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(setup(false).refuse_offline("QEMU").is_ok());
    }
}
