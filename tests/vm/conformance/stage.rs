//! What a file's cases find: which function is on vfio-pci, and whether it has a VF.

use crate::machine::{attribute, dir, done, link, physical_function, read, vfs, write};
use anyhow::{Context, Result, ensure};
use pci::Bdf;
use std::process::Command;

/// Whether a PF on vfio-pci may have VFs.
const ENABLE_SRIOV: &str = "/sys/module/vfio_pci/parameters/enable_sriov";

/// How a machine is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not at all.
    Plain,
    /// The 82576's PF is on vfio-pci.
    Function,
    /// The same, and so is the NVMe's.
    TwoFunctions,
    /// The 82576's PF and a VF of it are on vfio-pci.
    FunctionWithVf,
}

/// A prepared machine.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pf: Option<Bdf>,
    vf: Option<Bdf>,
    other: Option<Bdf>,
    /// What `enable_sriov` was.
    enable_sriov: Option<String>,
}

impl Stage {
    pub(crate) fn set(self) -> Result<Staged> {
        let mut staged = Staged::default();
        if self == Self::Plain {
            return Ok(staged);
        }
        let pf = physical_function("igb")?;
        done(&["bind", &pf, "--driver", "vfio-pci"])?;
        staged.pf = Some(pf.parse()?);
        let more = match self {
            Self::FunctionWithVf => staged.make_vf(&pf),
            Self::TwoFunctions => staged.bind_other(),
            Self::Plain | Self::Function => Ok(()),
        };
        if let Err(error) = more {
            staged.clear()?;
            return Err(error);
        }
        Ok(staged)
    }

    /// The stage for the kernel's program, which makes its VF itself.
    pub(crate) fn without_vf(self) -> Self {
        if self == Self::FunctionWithVf {
            Self::Function
        } else {
            self
        }
    }
}

impl Staged {
    /// The PF on vfio-pci.
    pub(crate) fn pf(&self) -> Result<Bdf> {
        self.pf.context("no function is prepared")
    }

    /// Its VF on vfio-pci.
    pub(crate) fn vf(&self) -> Result<Bdf> {
        self.vf.context("no VF is prepared")
    }

    /// All functions that are on vfio-pci and can be opened at once.
    pub(crate) fn functions(&self) -> impl Iterator<Item = Bdf> {
        self.pf.into_iter().chain(self.other)
    }

    fn bind_other(&mut self) -> Result<()> {
        let other = physical_function("nvme")?;
        done(&["bind", &other, "--driver", "vfio-pci"])?;
        self.other = Some(other.parse()?);
        Ok(())
    }

    /// Lets a PF on vfio-pci have VFs until the machine is cleared.
    pub(crate) fn allow_vfs(&mut self) -> Result<()> {
        if self.enable_sriov.is_none() {
            self.enable_sriov = Some(read(ENABLE_SRIOV)?);
            write(ENABLE_SRIOV, "1")?;
        }
        Ok(())
    }

    /// A VF of a PF on vfio-pci gets vfio-pci without being asked.
    fn make_vf(&mut self, pf: &str) -> Result<()> {
        self.allow_vfs()?;
        write(dir(pf).join("sriov_numvfs"), "1")?;
        let vf = vfs(pf).pop().context("no VF")?;
        self.vf = Some(vf.parse()?);
        ensure!(
            link(&vf, "driver").as_deref() == Some("vfio-pci"),
            "the VF {vf} is on {:?}",
            link(&vf, "driver")
        );
        Ok(())
    }

    /// Gives everything back.
    pub(crate) fn clear(self) -> Result<()> {
        let Some(pf) = self.pf.map(|pf| pf.to_string()) else {
            return Ok(());
        };
        if attribute(&pf, "sriov_numvfs")? != "0" {
            write(dir(&pf).join("sriov_numvfs"), "0")?;
        }
        if let Some(enable) = self.enable_sriov {
            write(ENABLE_SRIOV, &enable)?;
        }
        if let Some(other) = self.other {
            done(&["release", &other.to_string()])?;
        }
        done(&["release", &pf]).map(drop)
    }

    /// Hands it to a child process that runs one case.
    pub(crate) fn to_environment(&self, command: &mut Command) {
        for (name, bdf) in [("CONF_PF", self.pf), ("CONF_VF", self.vf), ("CONF_OTHER", self.other)] {
            command.envs(bdf.map(|bdf| (name, bdf.to_string())));
        }
    }

    pub(crate) fn from_environment() -> Result<Self> {
        let bdf = |name: &str| std::env::var(name).ok().map(|bdf| bdf.parse::<Bdf>()).transpose();
        Ok(Self {
            pf: bdf("CONF_PF")?,
            vf: bdf("CONF_VF")?,
            other: bdf("CONF_OTHER")?,
            enable_sriov: None,
        })
    }
}
