//! The function that a user named with `--device`: looked at before anything is done to it, and left as it was found.

use anyhow::{Result, ensure};
use pci::Bdf;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use system_tests::machine::{attribute, dir, done, link, vfs, write};

const OVERRIDE: &str = "driver_override";
/// What the kernel says of an override that is not there.
const NONE: &str = "(null)";

/// A user's function. When this goes, the function has the driver, the override and the VFs that it had.
#[derive(Debug)]
pub struct Named {
    bdf: String,
    driver: Option<String>,
    /// As the kernel says it: `(null)` for none.
    driver_override: String,
    autoprobe: Option<String>,
    interrupted: Arc<AtomicBool>,
    /// Whether something was not taken back: then nothing more is begun.
    is_left: AtomicBool,
}

impl Named {
    /// Notes how the function is. From here on SIGINT, SIGTERM and SIGHUP end what is [begun](Self::go_on) next, and a second one the process.
    ///
    /// # Errors
    /// When it is not there, has VFs, or another driver than `native` or vfio-pci.
    pub fn new(bdf: Bdf, native: &[&str]) -> Result<Self> {
        let bdf = bdf.to_string();
        ensure!(
            dir(&bdf).exists(),
            "{bdf}: look up: there is no such function: sriovctl list"
        );
        ensure!(
            vfs(&bdf).is_empty(),
            "{bdf}: look for VFs: it has some, which may be in use: sriovctl vf delete {bdf}"
        );
        let driver = link(&bdf, "driver");
        let is_fit = |name: &String| native.is_empty() || native.contains(&name.as_str()) || name == "vfio-pci";
        ensure!(
            driver.as_ref().is_none_or(is_fit),
            "{bdf}: read driver: {} drives it, and not {} or vfio-pci: name another one, see sriovctl list",
            driver.as_deref().unwrap_or_default(),
            native.join(", ")
        );
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupted))?;
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self {
            autoprobe: attribute(&bdf, "sriov_drivers_autoprobe").ok(),
            driver_override: attribute(&bdf, OVERRIDE)?,
            is_left: AtomicBool::new(false),
            bdf,
            driver,
            interrupted,
        })
    }

    /// Its address.
    #[must_use]
    pub fn bdf(&self) -> &str {
        &self.bdf
    }

    /// To be asked before each step.
    ///
    /// # Errors
    /// After a signal, and when something could not be taken back.
    pub fn go_on(&self) -> Result<()> {
        ensure!(
            !self.is_left.load(Ordering::Relaxed),
            "{}: it is not as it was found",
            self.bdf
        );
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Whether `sriovctl` would do this, which refuses what would take something from its users; nothing is done.
    ///
    /// # Errors
    /// What it says.
    pub fn would(&self, arguments: &[&str]) -> Result<()> {
        done(&[&["plan"], arguments].concat()).map(drop)
    }

    /// Takes the VFs away, and gives it back to its driver. What of it fails does not keep the rest from being done.
    ///
    /// # Errors
    /// The first: what `sriovctl` says, which does not take VFs from who has them.
    pub fn restore(&self) -> Result<()> {
        let steps = [
            self.delete_vfs(),
            self.set_autoprobe(),
            self.give_back(),
            self.set_override(),
        ];
        let restored = steps.into_iter().fold(Ok(()), Result::and);
        self.is_left.store(restored.is_err(), Ordering::Relaxed);
        restored
    }

    /// The last thing to do with it.
    ///
    /// # Errors
    /// Those of [`restore`](Self::restore), which is tried once more then.
    pub fn end(self) -> Result<()> {
        self.restore()
    }

    fn delete_vfs(&self) -> Result<()> {
        if vfs(&self.bdf).is_empty() {
            return Ok(());
        }
        done(&["vf", "delete", &self.bdf]).map(drop)
    }

    fn set_autoprobe(&self) -> Result<()> {
        let Some(before) = &self.autoprobe else { return Ok(()) };
        self.set("sriov_drivers_autoprobe", before, before)
    }

    fn give_back(&self) -> Result<()> {
        let bdf = self.bdf.as_str();
        if link(bdf, "driver") == self.driver {
            return Ok(());
        }
        match self.driver.as_deref() {
            None => done(&["unbind", bdf]),
            Some("vfio-pci") => done(&["bind", bdf, "--driver", "vfio-pci"]),
            Some(_) => done(&["release", bdf]),
        }?;
        ensure!(
            link(bdf, "driver") == self.driver,
            "{bdf}: give it back: it is on {}",
            link(bdf, "driver").as_deref().unwrap_or("no driver")
        );
        Ok(())
    }

    /// Last, for binding and giving back set it.
    fn set_override(&self) -> Result<()> {
        let before = self.driver_override.as_str();
        // An empty line is none.
        self.set(OVERRIDE, before, if before == NONE { "\n" } else { before })
    }

    fn set(&self, name: &str, before: &str, text: &str) -> Result<()> {
        if attribute(&self.bdf, name)? == before {
            return Ok(());
        }
        write(dir(&self.bdf).join(name), text)
    }

    /// What it was, and what brings that back.
    fn before(&self) -> String {
        let (bdf, driver) = (&self.bdf, self.driver.as_deref());
        let back = driver.map_or_else(
            || format!("sriovctl unbind {bdf}"),
            |driver| format!("sriovctl bind {bdf} --driver {driver}"),
        );
        format!(
            "{bdf} had {} and no VFs, its driver_override was {}: sriovctl vf delete {bdf}; {back}",
            driver.unwrap_or("no driver"),
            self.driver_override
        )
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            complain(&format!(
                "what was done to it is not taken back: {error:#}; {}",
                self.before()
            ));
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the user has to know, and there is nobody to return it to"
)]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let error = Named::new("ffff:ff:1f.7".parse().unwrap(), &["nvme"]).unwrap_err();
        assert!(error.to_string().starts_with("ffff:ff:1f.7: look up"), "{error}");
    }
}
