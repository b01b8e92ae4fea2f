//! The function that a user named with `--device`: looked at before anything is done to it, and left as it was found.

use anyhow::{Context, Result, ensure};
use pci::Bdf;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use system_tests::machine::{attribute, dir, done, link, vfs, write};

/// A user's function. When this goes, the function has the driver and the VFs that it had.
#[derive(Debug)]
pub struct Named {
    bdf: String,
    driver: Option<String>,
    autoprobe: Option<String>,
    interrupted: Arc<AtomicBool>,
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
    /// After a signal.
    pub fn go_on(&self) -> Result<()> {
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

    /// Takes the VFs away, and gives it back to its driver.
    ///
    /// # Errors
    /// What `sriovctl` says, which does not take VFs from who has them.
    pub fn restore(&self) -> Result<()> {
        let bdf = self.bdf.as_str();
        if !vfs(bdf).is_empty() {
            done(&["vf", "delete", bdf])?;
        }
        if let Some(before) = &self.autoprobe
            && attribute(bdf, "sriov_drivers_autoprobe")? != *before
        {
            write(dir(bdf).join("sriov_drivers_autoprobe"), before)?;
        }
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
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(error) = self.restore().context("what was done to it is not taken back") {
            complain(&format!("{error:#}: sriovctl undo"));
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
