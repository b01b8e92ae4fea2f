//! Brings what the lab needs: QEMU, kernels, and the packages to build one.

mod apt;
mod full;
mod packages;
mod qemu;
mod stock;

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
        let _lock = self.lock()?;
        qemu::provide(self)
    }

    /// A kernel of that flavour.
    ///
    /// # Errors
    /// When it is not there and cannot be fetched or built.
    pub fn kernel(&self, flavour: Flavour) -> Result<Kernel> {
        let _lock = self.lock()?;
        match flavour {
            Flavour::Stock => stock::provide(self),
            Flavour::Full => full::provide(self),
            Flavour::Host => host_kernel(),
        }
    }

    /// Whether the `full` kernel is there, built from what this version of the lab asks for.
    #[must_use]
    pub fn has_full_kernel(&self) -> bool {
        full::present(self).is_some()
    }

    fn lock(&self) -> Result<std::fs::File> {
        self.cache
            .lock(|| crate::progress::say("waiting: another process is setting the lab up in the same cache"))
    }

    fn refuse_offline(&self, what: &str) -> Result<()> {
        if self.offline {
            bail!(
                "{what} is not in the cache, and --offline forbids to fetch it\n  fix      run the same command once without --offline"
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
