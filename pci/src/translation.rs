//! Device address translation of a function: ATS, PRI and PASID, and whether its IOMMU can serve them.
//!
//! No file of sysfs tells; they are read from configuration space when asked for, one function at a time. VFs have ATS of their
//! own, but use PRI and PASID of their PF (`drivers/pci/ats.c`).

use crate::cap::Decode;
use crate::ecap::{Ats, Pasid, Pri};
use crate::{Bdf, ConfigSpace, Function, Iommu, Reading, Sysfs, Topology, Unknown};

/// What a function has of each service, enabled or not, and the IOMMU unit behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranslationServices {
    /// Address Translation Services; `None` where the function has none.
    pub ats: Reading<Option<Ats>>,
    /// Page Request Interface. For a VF that of its PF.
    pub pri: Reading<Option<Pri>>,
    /// Process address space identifiers. For a VF those of its PF.
    pub pasid: Reading<Option<Pasid>>,
    /// Whose PRI and PASID capabilities these are: the function itself, or the PF of a VF.
    pub shared_with: Bdf,
    /// The unit that serves the function; `None` without an IOMMU.
    pub iommu: Reading<Option<Iommu>>,
}

impl Topology {
    /// The services of a function; `None` for one that is not in the snapshot. Reads the configuration space of the function
    /// and, for a VF, of its PF.
    #[must_use]
    pub fn translation_services(&self, sysfs: &Sysfs, bdf: Bdf) -> Option<TranslationServices> {
        let function = self.function(bdf)?;
        let own = Space::read(sysfs, function);
        let vf_of = function.vf_of.as_ref().ok().and_then(Option::as_ref);
        let pf = vf_of
            .and_then(|vf_of| self.function(vf_of.pf))
            .map(|pf| Space::read(sysfs, pf));
        let shared = pf.as_ref().unwrap_or(&own);
        Some(TranslationServices {
            ats: own.find(),
            pri: shared.find(),
            pasid: shared.find(),
            shared_with: shared.function.bdf,
            iommu: Iommu::serving(sysfs, function),
        })
    }
}

struct Space<'r> {
    sysfs: &'r Sysfs,
    function: &'r Function,
    config: Reading<ConfigSpace>,
}

impl<'r> Space<'r> {
    fn read(sysfs: &'r Sysfs, function: &'r Function) -> Self {
        Self {
            sysfs,
            function,
            config: function.config(sysfs),
        }
    }

    fn find<C: Decode>(&self) -> Reading<Option<C>> {
        let config = self.config.as_ref().map_err(Clone::clone)?;
        config
            .find()
            .map_err(|error| Unknown::config(self.sysfs, self.function, config, &error))
    }
}
